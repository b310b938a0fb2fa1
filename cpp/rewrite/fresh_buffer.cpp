#include "rewrite/fresh_buffer.h"

#include "table/targets.h"

namespace spfast {

bool is_fresh_buffer(const NodeTable& table, NodeId node, const Meta& meta, Dim tokens,
                     const std::function<bool(NodeId)>& may_follow) {
  static const TargetId kEmpty = intern_target("aten.empty.memory_format");
  static const TargetId kEmptyLike = intern_target("aten.empty_like.default");
  const auto args = table.args(node);
  const auto dims = table.dims(meta);
  if (args.size() != 1 || dims.size() < 2 || meta.tokens != tokens || dims.back().is_expr()) {
    return false;
  }
  if (table.target(node) == kEmpty) return true;
  return table.target(node) == kEmptyLike && args[0].is_node() && may_follow(args[0].payload);
}

}  // namespace spfast
