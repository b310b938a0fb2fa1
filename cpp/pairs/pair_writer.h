// Writes pairs down as edits, and lets the live graph follow.
#pragma once

#include <cstdint>
#include <unordered_map>

#include "pairs/gather_pair.h"
#include "pairs/live_graph.h"
#include "pairs/pair_plan.h"
#include "pairs/scatter_pair.h"

namespace spfast {

// Objects that every plan of pairs names: None, False, True; then those of the layouts.
inline constexpr uint32_t kGivenNone = 0;
inline constexpr uint32_t kGivenFalse = 1;
inline constexpr uint32_t kGivenTrue = 2;

class PairWriter {
 public:
  PairWriter(LiveGraph& graph, PairPlan& out);
  // `group`: which of the given objects is the group's name.
  void write(const GatherPair& pair, uint32_t group);
  void write(const ScatterPair& pair, uint32_t group);
  // Erases what no pair left a reader, when all are written.
  void finish();

 private:
  using Arguments = std::unordered_map<FusedArgument, PlanArg>;
  struct Operands {
    PlanArg left;
    PlanArg right;
    NodeRef value = kNone;  // the left one
  };

  NodeRef create(TargetId target, std::vector<PlanArg> args, NodeId origin, PairValue value);
  NodeRef create_fused(const FusedLayout& layout, const Arguments& given, NodeId origin,
                       PairValue value);
  NodeRef reshape(NodeRef node, NodeId like, NodeId origin, PairValue value);
  NodeRef item(NodeRef of, int64_t place, NodeId origin);
  [[nodiscard]] PlanArg node(NodeId node);
  [[nodiscard]] PlanArg node_or_none(Argument value);
  [[nodiscard]] std::vector<PlanArg> listed(std::span<const Dim> sizes) const;
  NodeRef shard_of(const GatherPair& pair);
  [[nodiscard]] PairValue whole_of(const GatherPair& pair);
  [[nodiscard]] PairValue out_of(const GatherPair& pair, const Product& one);
  [[nodiscard]] Arguments arguments_of(const GatherPair& pair, NodeRef shard, uint32_t group);
  [[nodiscard]] Dim features_of(const ScatterPair& pair);
  [[nodiscard]] Operands operands_of(const ScatterPair& pair);
  [[nodiscard]] Arguments arguments_of(const ScatterPair& pair, uint32_t group);
  [[nodiscard]] NodeRef first_fused(size_t since, const FusedLayout& layout) const;
  NodeRef sum_of_fused(const ScatterPair& pair, uint32_t group, const PairValue& mine);
  NodeRef finished(const GatherPair& pair, const Product& one, NodeRef out);
  void take_place(NodeId node, NodeRef now);
  void settle(std::vector<NodeId> inside);
  void note(NodeId collective, std::span<const Product> products, NodeRef fused);

  LiveGraph& graph_;
  PairPlan& out_;
  NodeId before_ = kNone;         // where new nodes stand
  std::vector<NodeId> replaced_;  // by the pair that is written
  std::vector<NodeId> erased_;
};

}  // namespace spfast
