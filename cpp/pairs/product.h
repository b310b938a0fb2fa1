// Matrix products, in the forms in which graphs spell them, as one description.
#pragma once

#include <optional>
#include <variant>
#include <vector>

#include "pairs/collective.h"

namespace spfast {

// How a product of float8 values is scaled.
struct ProductScales {
  NodeId left = kNone;   // one number, or one a row [M, 1], float32
  NodeId right = kNone;  // one number, or one a column [1, N], float32
  Argument bias;         // what is added before rounding, [N]
  Argument result;       // scales the result
  bool fast = false;     // whether sums may be kept in less than float32
  bool by_row = false;   // each row has a scale of its own
};

// [M, K] x [K, N].
struct Product {
  NodeId value = kNone;  // yields it, [M, N]
  NodeId left = kNone;   // where its left operand is read; bmm_fp8 reads [1, M, K]
  NodeId right = kNone;
  std::optional<ProductScales> scales;  // of a product of float8 values
  NodeId addend = kNone;                // what is added to it afterwards
  std::vector<NodeId> inside;           // the nodes of which it consists, first to last
  std::vector<NodeId> buffers;          // what only the product reads; unused once it is gone
  NodeId viewed = kNone;                // what `left` is a view of, where it is no matrix itself

  [[nodiscard]] NodeId matrix() const { return viewed == kNone ? left : viewed; }
  // All that it reads but its left operand and that one's scale.
  [[nodiscard]] std::vector<NodeId> operands() const;
};

// No product at all; one that no fused operator computes, and why; or the product.
using FoundProduct = std::variant<std::monostate, Why, Product>;

[[nodiscard]] FoundProduct read_product(LiveGraph& graph, NodeId node);

}  // namespace spfast
