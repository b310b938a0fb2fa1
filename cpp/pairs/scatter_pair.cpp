#include "pairs/scatter_pair.h"

#include <algorithm>

#include "table/targets.h"

namespace spfast {
namespace {

constexpr const char* kNoProduct = "what it sums is no matrix product";
constexpr const char* kNoProducts = "what it sums is no sum of plain matrix products";
constexpr const char* kHidesGather = "its product hides an all_gather already";
constexpr const char* kCastBefore = "its product is cast before it is summed";
constexpr const char* kReadElsewhere = "its product is read elsewhere, too";

class ScatterPairFinder {
 public:
  ScatterPairFinder(LiveGraph& graph, const FusedOperators& operators,
                    const FoundCollective& scatter)
      : graph_(graph), operators_(operators), scatter_(scatter) {}

  std::variant<ScatterPair, Why> find() {
    const std::string& op = scatter_.reduce_op;
    if (op != "sum" && op != "avg") {
      return "its reduce op is " + op + ", and a fused operator has sum and avg";
    }
    NodeId part = scatter_.operand;
    std::vector<NodeId> between;  // the product and the collective, last to first
    NodeId wide = kNone;          // a cast among them
    for (;;) {
      const bool casts = graph_.is_cast(part);
      if (!casts && !graph_.is_view(part) && !graph_.is_identity(part)) break;
      const NodeId before = graph_.first_operand(part);
      if (before == kNone) break;
      if (graph_.reader_count(part) != 1) return kReadElsewhere;
      if (casts && wide != kNone) return kNoProduct;
      if (casts) wide = part;
      between.push_back(part);
      part = before;
    }
    if (is_sum(part)) return of_sum(part, between, wide);
    if (hides_a_gather(part)) return kHidesGather;
    // One that writes to a buffer yields an item of what its node yields.
    const NodeId whole = graph_.is_replaced(part) ? kNone : graph_.table().whole_of(part);
    const FoundProduct read = read_product(graph_, whole == kNone ? part : whole);
    if (const Why* why = std::get_if<Why>(&read)) return *why;
    const Product* found = std::get_if<Product>(&read);
    if (found == nullptr) return kNoProduct;
    std::reverse(between.begin(), between.end());
    // bmm_fp8 ends in a view.
    const auto end = std::find(between.begin(), between.end(), found->value);
    if (end != between.end()) between.erase(between.begin(), end + 1);
    if (graph_.reader_count(found->value) != 1) return kReadElsewhere;
    for (size_t i = 0; i + 1 < found->inside.size(); ++i) {
      if (graph_.reader_count(found->inside[i]) != 1) return kReadElsewhere;
    }
    if (found->addend != kNone) {
      return "its product has an addend, which is summed over the ranks, too";
    }
    return placed(*found, between, wide);
  }

 private:
  // Of values of one shape and dtype, unscaled.
  [[nodiscard]] bool is_sum(NodeId node) {
    static const TargetId add = intern_target("aten.add.Tensor");
    if (graph_.target(node) != add || !graph_.table().kwargs(node).empty()) return false;
    const auto args = graph_.table().args(node);
    return args.size() == 2 && std::all_of(args.begin(), args.end(), [&](Argument arg) {
             return arg.is_node() && graph_.is_tensor(arg.payload) &&
                    graph_.dims(arg.payload) == graph_.dims(node) &&
                    graph_.dtype(arg.payload) == graph_.dtype(node);
           });
  }

  // x1 w1 + x2 w2 + ... is one product: of the operands, joined along the features that are summed.
  std::variant<ScatterPair, Why> of_sum(NodeId sum, std::vector<NodeId> between, NodeId wide) {
    std::vector<NodeId> terms;  // last to first
    NodeId rest = sum;
    for (; is_sum(rest); rest = graph_.first_operand(rest)) {
      if (graph_.reader_count(rest) != 1) return kReadElsewhere;
      terms.push_back(graph_.table().args(rest)[1].payload);
      between.push_back(rest);
    }
    terms.push_back(rest);
    std::vector<Product> products;
    for (auto term = terms.rbegin(); term != terms.rend(); ++term) {
      NodeId value = *term;
      for (; graph_.is_view(value); value = graph_.first_operand(value)) {
        if (graph_.reader_count(value) != 1) return kReadElsewhere;
        between.push_back(value);
      }
      if (hides_a_gather(value)) return kHidesGather;
      const FoundProduct read = read_product(graph_, value);
      const Product* found = std::get_if<Product>(&read);
      if (found == nullptr || found->scales || found->addend != kNone) return kNoProducts;
      if (graph_.reader_count(value) != 1) return kReadElsewhere;
      products.push_back(*found);
    }
    if (!can_join(products)) return kNoProducts;
    const bool each = is_too_wide(products);
    // Each result would be rounded before they are added.
    if (each && wide != kNone) return kCastBefore;
    if (each && !hide_each(products)) {
      return "joining its products would copy more than it hides, and one is too small to hide one";
    }
    std::variant<ScatterPair, Why> placed_pair = placed(products[0], between, wide);
    if (ScatterPair* pair = std::get_if<ScatterPair>(&placed_pair)) {
      pair->each = each;
      for (size_t i = 1; i < products.size(); ++i) {
        pair->inside.insert(pair->inside.end(), products[i].inside.begin(),
                            products[i].inside.end());
        pair->added.push_back(std::move(products[i]));
      }
    }
    return placed_pair;
  }

  // Whether products have one shape, and sum over features of which the numbers are known.
  [[nodiscard]] bool can_join(const std::vector<Product>& products) {
    const auto shape = graph_.dims(products[0].value);
    return std::all_of(products.begin(), products.end(), [&](const Product& one) {
      return graph_.is_tensor(one.left) && graph_.is_tensor(one.right) &&
             graph_.rank(one.left) == 2 && !graph_.last_dim(one.left).is_expr() &&
             graph_.dims(one.value) == shape;
    });
  }

  // To join operands is to copy them. That pays only while they are small: on two H200, products
  // over 28,672 and 14,336 features whose sum has half as many or fewer gained nothing.
  bool is_too_wide(const std::vector<Product>& products) {
    int64_t joined = 0;
    for (const Product& one : products) joined += graph_.last_dim(one.left).raw;
    const Dim out = graph_.last_dim(products[0].value);
    return !out.is_expr() && joined > out.raw;
  }

  // Whether each product sums over enough to hide a reduce_scatter of its own.
  bool hide_each(const std::vector<Product>& products) {
    const int64_t out = graph_.last_dim(products[0].value).raw;
    return std::all_of(products.begin(), products.end(), [&](const Product& one) {
      return 2 * graph_.last_dim(one.left).raw >= out;
    });
  }

  // Whether a value comes out of a fused operator that gathers: of this run, or of an earlier one.
  [[nodiscard]] bool hides_a_gather(NodeId node) const {
    if (graph_.is_replaced(node)) return graph_.is_fused(node);
    const NodeId list = graph_.first_operand(node);
    const NodeId maker = list == kNone ? kNone : graph_.first_operand(list);
    const TargetId target = maker == kNone ? kNone : graph_.target(maker);
    return target != kNone && target_name(target).starts_with("symm_mem.");
  }

  std::variant<ScatterPair, Why> placed(const Product& found, const std::vector<NodeId>& between,
                                        NodeId wide) {
    ScatterPair pair;
    pair.scatter = scatter_;
    pair.product = found;
    pair.result = scatter_.value;
    pair.inside = found.inside;
    pair.inside.insert(pair.inside.end(), between.begin(), between.end());
    pair.inside.insert(pair.inside.end(), scatter_.inside.begin(), scatter_.inside.end());
    if (wide != kNone) {
      const NodeId narrow = graph_.only_reader(scatter_.value);
      if (narrow == kNone || !graph_.is_cast(narrow) ||
          graph_.dtype(narrow) != graph_.dtype(found.value) ||
          graph_.item_bytes(wide) < graph_.item_bytes(found.value)) {
        return kCastBefore;
      }
      pair.inside.push_back(narrow);
      pair.result = narrow;
    }
    return fits(std::move(pair));
  }

  // Once it is known along which dim what is scattered.
  std::variant<ScatterPair, Why> fits(ScatterPair pair) {
    const Product& found = pair.product;
    const auto moved = graph_.dims(scatter_.operand);
    const Dim rows = graph_.rows(found.value);
    const std::string at = "it scatters dim " + std::to_string(scatter_.dim) + " of ";
    if (scatter_.dim == 0) {
      if (!rows.is_expr() && rows.raw % scatter_.size != 0) {
        return "the " + std::to_string(rows.raw) + " rows of its product are no multiple of " +
               std::to_string(scatter_.size) + " ranks";
      }
    } else if (scatter_.dim + 1 == moved.size()) {
      return "it scatters features, not tokens";
    } else {
      if (scatter_.dim != 1 || (found.scales && found.scales->by_row)) return at + "its product";
      if (moved.back() != graph_.last_dim(found.value)) return at + "its product, viewed otherwise";
      if (std::any_of(moved.begin(), moved.end(), [](Dim d) { return d.is_expr(); })) {
        return at + "what has a symbolic size";
      }
      if (graph_.rank(found.matrix()) != 2) return "the shape of its matrix product is not known";
      pair.apart = true;
    }
    const char* name =
        found.scales ? "fused_scaled_matmul_reduce_scatter" : "fused_matmul_reduce_scatter";
    pair.layout = &operators_.scatter;
    if (found.scales) {
      const size_t form =
          (found.scales->bias.is_node() ? 1U : 0U) + (found.scales->result.is_node() ? 2U : 0U);
      pair.layout = &operators_.scaled_scatter.at(form);
    }
    if (!pair.layout->is_there()) {
      return std::string("this torch has no operator symm_mem.") + name +
             " that takes what it needs";
    }
    if (found.scales && rows.is_expr() && !operators_.symbolic_shape) {
      return std::string("symm_mem.") + name + " of this torch takes no symbolic number of tokens";
    }
    if (!graph_.can_list(pair.result) || !graph_.can_list(found.value)) {
      return "it has several symbolic sizes";
    }
    return pair;
  }

  LiveGraph& graph_;
  const FusedOperators& operators_;
  const FoundCollective& scatter_;
};

}  // namespace

std::variant<ScatterPair, Why> find_scatter_pair(LiveGraph& graph, const FusedOperators& operators,
                                                 const FoundCollective& scatter) {
  return ScatterPairFinder(graph, operators, scatter).find();
}

}  // namespace spfast
