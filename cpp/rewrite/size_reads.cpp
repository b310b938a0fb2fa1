#include "rewrite/size_reads.h"

#include <algorithm>

#include "table/targets.h"

namespace spfast {

bool asks_for_size(const NodeTable& table, const Anchor& anchor, NodeId user, NodeId alias) {
  static const TargetId kSymSize = intern_target("aten.sym_size.int");
  if (table.target(user) != kSymSize || anchor.input == kNone || anchor.input >= user) return false;
  const Meta& meta = table.meta(alias);
  const Meta& reduced = table.meta(anchor.all_reduce);
  if (meta.kind != MetaKind::kTensor || reduced.kind != MetaKind::kTensor) return false;
  const auto dims = table.dims(meta);
  const auto others = table.dims(reduced);
  return std::equal(dims.begin(), dims.end(), others.begin(), others.end());
}

}  // namespace spfast
