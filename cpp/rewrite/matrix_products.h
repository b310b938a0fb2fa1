// The operators that multiply matrices and that symmetric memory has fused ones for.
#pragma once

#include "table/node_table.h"

namespace spfast {

enum class ProductKind : uint8_t {
  kNone,
  kMm,
  kAddmm,
  kScaledMm,
  kCutlass,  // vLLM's, which writes to a buffer, in either functionalised form
  kBmmFp8,   // FlashInfer's
};

[[nodiscard]] ProductKind product_kind(TargetId target);
// The left operand of a call of one; kNone where that is no node.
[[nodiscard]] NodeId left_operand(const NodeTable& table, NodeId node, ProductKind kind);

}  // namespace spfast
