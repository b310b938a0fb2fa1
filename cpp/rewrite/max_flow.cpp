#include "rewrite/max_flow.h"

#include <algorithm>

#include "base/work.h"
#include "table/value.h"

namespace spfast {

void MaxFlow::add_edge(uint32_t from, uint32_t to, int64_t capacity) {
  edges_.push_back({from, to, capacity});
  edges_.push_back({to, from, 0});
}

void MaxFlow::index() {
  begins_.assign(nodes_ + 1, 0);
  for (const Edge& edge : edges_) ++begins_[edge.from + 1];
  for (uint32_t i = 0; i < nodes_; ++i) begins_[i + 1] += begins_[i];
  order_.resize(edges_.size());
  std::vector<uint32_t> next(begins_.begin(), begins_.end() - 1);
  for (uint32_t i = 0; i < edges_.size(); ++i) order_[next[edges_[i].from]++] = i;
}

bool MaxFlow::find_levels(uint32_t source, uint32_t sink) {
  levels_.assign(nodes_, kNone);
  levels_[source] = 0;
  std::vector<uint32_t> queue{source};
  for (size_t head = 0; head < queue.size(); ++head) {
    const uint32_t node = queue[head];
    for (uint32_t at = begins_[node]; at < begins_[node + 1]; ++at) {
      SPFAST_WORK(1);
      const Edge& edge = edges_[order_[at]];
      if (edge.left == 0 || levels_[edge.to] != kNone) continue;
      levels_[edge.to] = levels_[node] + 1;
      queue.push_back(edge.to);
    }
  }
  return levels_[sink] != kNone;
}

int64_t MaxFlow::push_one_path(uint32_t source, uint32_t sink) {
  path_.clear();
  uint32_t node = source;
  while (node != sink) {
    SPFAST_WORK(1);
    if (current_[node] == begins_[node + 1]) {  // a dead end: back by one edge, past it
      if (node == source) return 0;
      node = edges_[path_.back()].from;
      path_.pop_back();
      ++current_[node];
      continue;
    }
    const uint32_t index = order_[current_[node]];
    const Edge& edge = edges_[index];
    if (edge.left > 0 && levels_[edge.to] == levels_[node] + 1) {
      path_.push_back(index);
      node = edge.to;
    } else {
      ++current_[node];
    }
  }
  int64_t flow = kUncut;
  for (const uint32_t index : path_) flow = std::min(flow, edges_[index].left);
  for (const uint32_t index : path_) {
    edges_[index].left -= flow;
    edges_[index ^ 1U].left += flow;
  }
  return flow;
}

bool MaxFlow::run(uint32_t source, uint32_t sink) {
  index();
  int64_t total = 0;
  while (find_levels(source, sink)) {
    current_.assign(begins_.begin(), begins_.end() - 1);
    while (const int64_t flow = push_one_path(source, sink)) {
      total += flow;
      if (total >= kUncut) return false;  // more than what can be cut comes through
    }
  }
  return true;
}

std::vector<bool> MaxFlow::source_side(uint32_t sink) const {
  std::vector<bool> side(nodes_, true);
  side[sink] = false;
  std::vector<uint32_t> queue{sink};
  for (size_t head = 0; head < queue.size(); ++head) {
    const uint32_t node = queue[head];
    for (uint32_t at = begins_[node]; at < begins_[node + 1]; ++at) {
      // Against the edges: who could still send something here is on this side.
      const uint32_t back = order_[at] ^ 1U;
      const uint32_t from = edges_[back].from;
      if (edges_[back].left == 0 || !side[from]) continue;
      side[from] = false;
      queue.push_back(from);
    }
  }
  return side;
}

}  // namespace spfast
