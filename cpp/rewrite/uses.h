// How the nodes of a graph read the values of its sites.
#pragma once

#include <unordered_map>
#include <unordered_set>

#include "rewrite/plan_builder.h"

namespace spfast {

// Whether a node reads a value in full, its shard, or a slice that is cut from the full value.
enum class Use : uint8_t { kFull, kLocal, kSliced };

class Uses {
 public:
  // Finds the uses of the sites that are rewritten.
  explicit Uses(const PlanBuilder& builder);
  // How a node reads a value through this alias.
  [[nodiscard]] Use use_of(NodeId user, NodeId alias) const;
  // Whether the user is the graph's output, and returns the value as this rank's rows.
  [[nodiscard]] bool leaves_as_rows(NodeId user, NodeId alias) const;

 private:
  [[nodiscard]] bool only_fills(NodeId user, NodeId buffer) const;
  void find_buffer_uses(const Site& site);
  void find_wide_users(const Site& site);
  [[nodiscard]] Use use_of(const Site& site, const SiteOperand& operand) const;

  const PlanBuilder& builder_;
  const NodeTable& table_;
  const Sites& sites_;
  std::unordered_set<uint64_t> buffer_uses_;  // (buffer, the value of a stream that it is like)
  // Of users that read many values: (user, alias), and where that stands among the site's operands.
  std::unordered_map<uint64_t, uint32_t> wide_;
};

}  // namespace spfast
