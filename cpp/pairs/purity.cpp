#include "pairs/purity.h"

#include "table/operators.h"
#include "table/targets.h"

namespace spfast {

bool is_pure(const LiveGraph& graph, NodeId node) {
  const TargetId target = graph.target(node);
  if (target == kNone || (graph.table().flags(node) & target_flag::kMutates) != 0) return false;
  const std::string name = target_name(target);
  const OperatorTraits traits = operator_traits(name);
  const bool is_aten = name.starts_with("aten.") || name.starts_with("prims.");
  return is_aten && traits.deterministic && traits.dropout < 0;
}

}  // namespace spfast
