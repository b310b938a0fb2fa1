#include "pairs/product.h"

#include <algorithm>
#include <string_view>

#include "rewrite/matrix_products.h"

namespace spfast {
namespace {

constexpr const char* kUnknownProduct = "the shape of its matrix product is not known";

class ProductReader {
 public:
  explicit ProductReader(LiveGraph& graph) : graph_(graph), table_(graph.table()) {}

  FoundProduct read(NodeId node) {
    const TargetId target = graph_.target(node);
    if (target == kNone) return {};
    switch (product_kind(target)) {
      case ProductKind::kNone:
        return {};
      case ProductKind::kMm: {
        const NodeId left = node_at(node, 0, "self");
        return checked({node, left, node_at(node, 1, "mat2"), {}, kNone, {node}, {}, kNone});
      }
      case ProductKind::kAddmm:
        return addmm(node);
      case ProductKind::kScaledMm:
        return scaled_mm(node);
      case ProductKind::kCutlass:
        return cutlass(node);
      case ProductKind::kBmmFp8:
        return bmm_fp8(node);
    }
    return {};
  }

 private:
  [[nodiscard]] NodeId node_at(NodeId node, size_t place, std::string_view name) const {
    const Argument value = graph_.argument(node, place, name);
    return value.is_node() ? value.payload : kNone;
  }
  [[nodiscard]] bool is_tensor(NodeId node) const {
    return node != kNone && graph_.is_tensor(node);
  }

  FoundProduct addmm(NodeId node) {
    const auto is_one = [&](Argument value) {
      return (value.tag == Tag::kInt && table_.as_int(value) == 1) ||
             (value.tag == Tag::kFloat && table_.as_float(value) == 1.0);
    };
    const auto kwargs = table_.kwargs(node);
    for (size_t i = 1; i < kwargs.size(); i += 2) {
      if (!is_one(kwargs[i])) return "its matrix product is scaled by a number";
    }
    const auto args = table_.args(node);
    if (args.size() != 3 || !args[0].is_node() || !args[1].is_node() || !args[2].is_node()) {
      return "its matrix product is scaled by a number";
    }
    return checked(
        {node, args[1].payload, args[2].payload, {}, args[0].payload, {node}, {}, kNone});
  }

  FoundProduct scaled_mm(NodeId node) {
    const ProductScales scales{node_at(node, 2, "scale_a"),
                               node_at(node, 3, "scale_b"),
                               graph_.argument(node, 4, "bias"),
                               graph_.argument(node, 5, "scale_result"),
                               is_true(graph_.argument(node, 7, "use_fast_accum")),
                               false};
    return checked({node,
                    node_at(node, 0, "self"),
                    node_at(node, 1, "mat2"),
                    scales,
                    kNone,
                    {node},
                    {},
                    kNone});
  }

  FoundProduct cutlass(NodeId node) {
    const NodeId value = graph_.only_reader(node);
    if (value == kNone || table_.whole_of(value) != node ||
        table_.as_int(table_.args(value)[1]) != 1) {
      return "what its cutlass_scaled_mm returns is read in several ways";
    }
    const auto given = [&](std::string_view name) { return table_.kwarg(node, name); };
    Argument buffer = given("out");
    if (const Argument bases = given("_all_bases"); is_sequence(bases.tag)) {
      const auto items = table_.items(bases);
      if (items.size() != 1) return "its cutlass_scaled_mm writes to several buffers";
      buffer = items[0];
    }
    if (!buffer.is_node()) return kUnknownProduct;
    const auto node_of = [&](std::string_view name) {
      const Argument found = given(name);
      return found.is_node() ? found.payload : kNone;
    };
    const ProductScales scales{
        node_of("a_scales"), node_of("b_scales"), given("bias"), {}, false, false};
    return checked(
        {value, node_of("a"), node_of("b"), scales, kNone, {node, value}, {buffer.payload}, kNone});
  }

  // FlashInfer's: [1, M, K] x [1, K, N], each scaled by one number, viewed as [M, N].
  FoundProduct bmm_fp8(NodeId node) {
    const NodeId left = node_at(node, 0, "A");
    const NodeId wide = node_at(node, 1, "B");
    if (!is_tensor(left) || !is_tensor(wide) || graph_.rank(left) != 3 || graph_.rank(wide) != 3) {
      return kUnknownProduct;
    }
    if (graph_.dims(left)[0] != Dim::of(1) || graph_.dims(wide)[0] != Dim::of(1)) {
      return "its bmm_fp8 multiplies several matrices";
    }
    const NodeId right = graph_.is_view(wide) ? graph_.first_operand(wide) : kNone;
    const NodeId viewed = graph_.is_view(left) ? graph_.first_operand(left) : kNone;
    const auto is_matrix = [&](NodeId one) { return is_tensor(one) && graph_.rank(one) == 2; };
    if (!is_matrix(right) || !is_matrix(viewed)) {
      return "its bmm_fp8 multiplies what is no view of one matrix";
    }
    const NodeId value = graph_.only_reader(node);
    if (value == kNone || !is_matrix(value) || !graph_.is_view(value)) {
      return "what its bmm_fp8 returns is not viewed as one matrix";
    }
    const ProductScales scales{
        node_at(node, 2, "A_scale"), node_at(node, 3, "B_scale"), {}, {}, false, false};
    return checked({value, left, right, scales, kNone, {node, value}, {wide, left}, viewed});
  }

  [[nodiscard]] static bool is_true(Argument value) {
    return value.tag == Tag::kBool && value.payload;
  }
  [[nodiscard]] static std::string name_of(std::string_view dtype) {
    constexpr std::string_view kModule = "torch.";
    return std::string(dtype.starts_with(kModule) ? dtype.substr(kModule.size()) : dtype);
  }
  [[nodiscard]] static bool is_float8(std::string_view dtype) {
    return dtype == "torch.float8_e4m3fn" || dtype == "torch.float8_e5m2";
  }
  [[nodiscard]] bool is_one(NodeId node) const {
    const auto sizes = graph_.dims(node);
    return std::all_of(sizes.begin(), sizes.end(), [](Dim d) { return d == Dim::of(1); });
  }

  // Whether a matrix's columns lie one after the other.
  [[nodiscard]] bool is_column_major(NodeId node) const {
    const Meta meta = graph_.meta(node);
    if (meta.strides.count != 0) return table_.strides(meta)[0] == Dim::of(1);
    const Dim columns = table_.dims(meta)[1];
    return !columns.is_expr() && columns.raw <= 1;
  }

  // The product, if a fused operator computes the same.
  FoundProduct checked(Product found) {
    if (found.left == kNone || found.right == kNone || !is_tensor(found.value)) {
      return kUnknownProduct;
    }
    const std::string_view out = graph_.dtype(found.value);
    if (!found.scales) {
      // mm and addmm multiply matrices of one dtype and yield it: nothing else need be read.
      if (out.find("float") != std::string::npos) return found;
      return "its matrix product is of " + name_of(out) + ", not of floating point";
    }
    if (!is_tensor(found.left) || !is_tensor(found.right)) return kUnknownProduct;
    if (graph_.rank(found.right) != 2 || graph_.rank(found.left) < 2) return kUnknownProduct;
    const std::string_view left = graph_.dtype(found.left);
    const std::string_view right = graph_.dtype(found.right);
    if (!is_float8(left) || !is_float8(right)) {
      return "its matrix product is of " + name_of(left) + ", not of float8";
    }
    if (!is_column_major(found.right)) {
      return "the right operand of its float8 product is not column-major";
    }
    ProductScales& scales = *found.scales;
    if (!is_tensor(scales.left) || !is_tensor(scales.right) ||
        graph_.dtype(scales.left) != "torch.float32" ||
        graph_.dtype(scales.right) != "torch.float32") {
      return "the scales of its float8 product are not known";
    }
    scales.by_row = !is_one(scales.left);
    if (!scales.by_row && is_one(scales.right)) return found;
    const auto mine = graph_.dims(scales.left);
    const auto theirs = graph_.dims(scales.right);
    if (mine.size() == 2 && mine[1] == Dim::of(1) && theirs.size() == 2 &&
        theirs[0] == Dim::of(1)) {
      if (out == "torch.bfloat16" && !scales.result.is_node()) return found;
      return "a float8 product with a scale a row yields bfloat16 alone";
    }
    return "one operand of its float8 product has one scale, and the other a scale a row";
  }

  LiveGraph& graph_;
  const NodeTable& table_;
};

}  // namespace

std::vector<NodeId> Product::operands() const {
  std::vector<NodeId> found{right};
  if (!scales) {
    if (addend != kNone) found.push_back(addend);
    return found;
  }
  found.push_back(scales->right);
  for (const Argument one : {scales->bias, scales->result}) {
    if (one.is_node()) found.push_back(one.payload);
  }
  return found;
}

FoundProduct read_product(LiveGraph& graph, NodeId node) { return ProductReader(graph).read(node); }

}  // namespace spfast
