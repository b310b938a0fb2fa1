#include "rewrite/size_sources.h"

#include "table/shared_traits.h"

namespace spfast {
namespace {

// Whether a node may be a number or an input, by what it is alone.
bool may_tell(const NodeTable& table, NodeId node, SharedTraits& traits) {
  if (table.op(node) == Op::kPlaceholder || table.op(node) == Op::kGetAttr) return true;
  return table.op(node) == Op::kCallFunction && traits.of(table.target(node)).number;
}

}  // namespace

void SizeSources::want(std::vector<NodeId>& missing) const {
  SharedTraits traits;
  for (NodeId node = 0; node < table_.size(); ++node) {
    if (table_.meta(node).kind != MetaKind::kUnknown || !may_tell(table_, node, traits)) continue;
    missing.push_back(node);
  }
}

void SizeSources::index() {
  indexed_ = true;
  SharedTraits traits;
  for (NodeId node = 0; node < table_.size(); ++node) {
    const Meta& meta = table_.meta(node);
    const bool number = meta.kind == MetaKind::kSym;
    if ((!number && meta.kind != MetaKind::kTensor) || !may_tell(table_, node, traits)) continue;
    if (!number && table_.op(node) == Op::kCallFunction) continue;
    const auto dims = table_.dims(meta);
    for (uint32_t i = 0; i < dims.size(); ++i) {
      if (!dims[i].is_expr()) continue;
      sources_.try_emplace(dims[i].expr_id(), SizeSource{node, number ? kNone : i});
    }
  }
}

std::optional<SizeSource> SizeSources::find(Dim size, NodeId before) {
  if (!indexed_) index();
  const auto known = sources_.find(size.expr_id());
  if (known == sources_.end() || known->second.node >= before) return {};
  return known->second;
}

}  // namespace spfast
