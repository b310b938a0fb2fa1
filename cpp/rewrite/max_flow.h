// A minimum cut by Dinic's algorithm, on flat arrays and without recursion.
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
  // Of all minimum cuts, the one with the most nodes on the source's side: true for those.
  // After a run() that found one.
  [[nodiscard]] std::vector<bool> source_side(uint32_t sink) const;

 private:
  struct Edge {
    uint32_t from;
    uint32_t to;
    int64_t left;
  };

  void index();
  bool find_levels(uint32_t source, uint32_t sink);
  int64_t push_one_path(uint32_t source, uint32_t sink);

  uint32_t nodes_;
  std::vector<Edge> edges_;       // edge i ^ 1 is edge i's reverse
  std::vector<uint32_t> begins_;  // by node, into order_
  std::vector<uint32_t> order_;   // edges by the node that they leave
  std::vector<uint32_t> levels_;
  std::vector<uint32_t> current_;  // by node: the next edge to try in this phase
  std::vector<uint32_t> path_;
};

}  // namespace spfast
