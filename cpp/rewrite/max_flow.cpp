#include "rewrite/max_flow.h"

#include <algorithm>

#include "base/work.h"
#include "table/argument.h"

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

void MaxFlow::find_distances(uint32_t source, uint32_t sink) {
  distances_.assign(nodes_, nodes_);
  distances_[sink] = 0;
  std::vector<uint32_t> queue{sink};
  for (size_t head = 0; head < queue.size(); ++head) {
    const uint32_t node = queue[head];
    for (uint32_t at = begins_[node]; at < begins_[node + 1]; ++at) {
      SPFAST_WORK(1);
      const Edge& back = edges_[order_[at] ^ 1U];
      if (back.left == 0 || distances_[back.from] != nodes_ || back.from == source) continue;
      distances_[back.from] = distances_[node] + 1;
      queue.push_back(back.from);
    }
  }
  current_.assign(begins_.begin(), begins_.end() - 1);
}

void MaxFlow::push(uint32_t index) {
  Edge& edge = edges_[index];
  const auto amount =
      static_cast<int64_t>(std::min(excess_[edge.from], static_cast<Amount>(edge.left)));
  edge.left -= amount;
  edges_[index ^ 1U].left += amount;
  excess_[edge.from] -= amount;
  if (excess_[edge.to] == 0) reached_.push_back(edge.to);
  excess_[edge.to] += amount;
}

bool MaxFlow::discharge(uint32_t node) {
  for (uint32_t& at = current_[node]; at < begins_[node + 1]; ++at) {
    SPFAST_WORK(1);
    const Edge& edge = edges_[order_[at]];
    if (edge.left == 0 || distances_[edge.to] + 1 != distances_[node]) continue;
    push(order_[at]);
    if (excess_[node] == 0) return false;
  }
  uint32_t least = nodes_;
  for (uint32_t at = begins_[node]; at < begins_[node + 1]; ++at) {
    SPFAST_WORK(1);
    const Edge& edge = edges_[order_[at]];
    if (edge.left > 0) least = std::min(least, distances_[edge.to] + 1);
  }
  distances_[node] = least;
  current_[node] = begins_[node];
  return true;
}

// Flow that cannot reach the sink stays where it is. The cut does not depend on it, and only the
// cut is asked for.
bool MaxFlow::run(uint32_t source, uint32_t sink) {
  index();
  excess_.assign(nodes_, 0);
  reached_.clear();
  find_distances(source, sink);
  for (uint32_t at = begins_[source]; at < begins_[source + 1]; ++at) {
    excess_[source] = edges_[order_[at]].left;
    if (excess_[source] > 0) push(order_[at]);
  }
  uint32_t grown = 0;  // distances, one edge at a time, since all were found anew
  for (size_t head = 0; head < reached_.size(); ++head) {
    const uint32_t node = reached_[head];
    if (node == source || node == sink) continue;
    if (distances_[node] >= nodes_ || !discharge(node)) continue;
    if (excess_[sink] >= kUncut) return false;  // more than what can be cut comes through
    if (++grown == nodes_) {
      grown = 0;
      find_distances(source, sink);
    }
    reached_.push_back(node);
  }
  return excess_[sink] < kUncut;
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
