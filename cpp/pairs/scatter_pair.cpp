#include "pairs/scatter_pair.h"

#include <algorithm>

#include "table/targets.h"

namespace spfast {
namespace {

constexpr const char* kNoProduct = "what it sums is no matrix product";
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
    if (hides_a_gather(part)) return "its product hides an all_gather already";
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
