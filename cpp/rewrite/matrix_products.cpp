#include "rewrite/matrix_products.h"

#include <utility>

#include "table/targets.h"

namespace spfast {

ProductKind product_kind(TargetId target) {
  static const std::pair<TargetId, ProductKind> kKinds[] = {
      {intern_target("aten.mm.default"), ProductKind::kMm},
      {intern_target("aten.addmm.default"), ProductKind::kAddmm},
      {intern_target("aten._scaled_mm.default"), ProductKind::kScaledMm},
      {intern_target("higher_order.auto_functionalized[_C.cutlass_scaled_mm.default]"),
       ProductKind::kCutlass},
      {intern_target("higher_order.auto_functionalized_v2[_C.cutlass_scaled_mm.default]"),
       ProductKind::kCutlass},
      {intern_target("vllm.bmm_fp8.default"), ProductKind::kBmmFp8},
  };
  for (const auto& [known, kind] : kKinds) {
    if (known == target) return kind;
  }
  return ProductKind::kNone;
}

NodeId left_operand(const NodeTable& table, NodeId node, ProductKind kind) {
  const auto args = table.args(node);
  const size_t place = kind == ProductKind::kAddmm ? 1 : 0;
  const Argument left = kind == ProductKind::kCutlass ? table.kwarg(node, "a")
                        : place < args.size()         ? args[place]
                                                      : Argument{};
  return left.is_node() ? left.payload : kNone;
}

}  // namespace spfast
