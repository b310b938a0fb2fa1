// A minimum cut by pushing a preflow forward, on flat arrays and without recursion. What is pushed
// goes one edge at a time: a flow along a chain with many narrow ends is not led from the source to
// each of them anew.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

namespace spfast {

class MaxFlow {
 public:
  // An edge of this capacity is never cut: the capacities of all others together stay below it.
  static constexpr int64_t kUncut = std::numeric_limits<int64_t>::max() / 4;

  explicit MaxFlow(uint32_t nodes) : nodes_(nodes) {}
  void add_edge(uint32_t from, uint32_t to, int64_t capacity);
  // Whether there is a cut between two nodes at all.
  [[nodiscard]] bool run(uint32_t source, uint32_t sink);
  // What the minimum cut costs, after a run() that found one.
  [[nodiscard]] int64_t cost(uint32_t sink) const { return static_cast<int64_t>(excess_[sink]); }
  // Of all minimum cuts, the one with the most nodes on the source's side: true for those.
  // After a run() that found one.
  [[nodiscard]] std::vector<bool> source_side(uint32_t sink) const;

 private:
  struct Edge {
    uint32_t from;
    uint32_t to;
    int64_t left;
  };
  // However many edges are never cut, what comes through them is counted.
  __extension__ using Amount = __int128;

  void index();
  // How far it is from each node to the sink; nodes_ where no way is left.
  void find_distances(uint32_t source, uint32_t sink);
  void push(uint32_t index);
  // Sends on what has come to a node; true if something is left, and its distance has grown.
  bool discharge(uint32_t node);

  uint32_t nodes_;
  std::vector<Edge> edges_;       // edge i ^ 1 is edge i's reverse
  std::vector<uint32_t> begins_;  // by node, into order_
  std::vector<uint32_t> order_;   // edges by the node that they leave
  std::vector<uint32_t> distances_;
  std::vector<uint32_t> current_;  // by node: the next edge to try at this distance
  std::vector<Amount> excess_;     // by node: what has come and not gone on
  std::vector<uint32_t> reached_;  // nodes that something came to, in the order in which it did
};

}  // namespace spfast
