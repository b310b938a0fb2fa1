// Buffers that a shard can have as well.
#pragma once

#include <functional>

#include "table/node_table.h"

namespace spfast {

// Whether a node makes an empty tensor with a row for each token that can be made with fewer rows:
// by its sizes, or like a value that `may_follow`.
[[nodiscard]] bool is_fresh_buffer(const NodeTable& table, NodeId node, const Meta& meta,
                                   Dim tokens, const std::function<bool(NodeId)>& may_follow);

}  // namespace spfast
