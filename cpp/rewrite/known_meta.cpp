#include "rewrite/known_meta.h"

namespace spfast {

const Meta* known_meta(const NodeTable& table, NodeId node, Site& site,
                       std::vector<NodeId>& missing) {
  const Meta& meta = table.meta(node);
  if (meta.kind == MetaKind::kUnknown) {
    missing.push_back(node);
    return nullptr;
  }
  if (meta.kind == MetaKind::kMissing) {
    site.reason = {Reason::Kind::kUnknownSize, node, kNone, 0, 0};
    return nullptr;
  }
  return &meta;
}

}  // namespace spfast
