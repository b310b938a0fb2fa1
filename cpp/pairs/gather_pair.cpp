#include "pairs/gather_pair.h"

#include <algorithm>
#include <set>

#include "pairs/purity.h"
#include "table/targets.h"

namespace spfast {
namespace {

// The most nodes that are moved ahead of a fused operator for one of its products.
constexpr size_t kMostMoved = 16;

// A node that shows the gathered rows in some shape, and the steps from the rows to its value, but
// for views.
struct ShownRows {
  NodeId node = kNone;
  std::vector<NodeId> steps;
};

class GatherPairFinder {
 public:
  GatherPairFinder(LiveGraph& graph, const FusedOperators& operators, const FoundCollective& gather,
                   const GatherOf& gather_of)
      : graph_(graph),
        table_(graph.table()),
        operators_(operators),
        gather_(gather),
        gather_of_(gather_of) {}

  std::variant<GatherPair, Why> find() {
    const size_t rank = graph_.rank(gather_.operand);
    if (gather_.dim > 0 && gather_.dim + 1 == rank) return "it gathers features, not tokens";
    if (!graph_.is_row_major(gather_.operand)) {
      return "the rows that it gathers do not lie one after the other";
    }
    if (graph_.rank(gather_.value) == 0) return "no matrix product reads what it gathers";
    find_shown();
    find_products();
    if (kinds_.empty()) return why_.empty() ? "no matrix product reads what it gathers" : why_;
    if (gather_.dim > 1 || (gather_.dim == 1 && !graph_.can_list(gather_.value))) {
      return "it gathers dim " + std::to_string(gather_.dim) + " of what has symbolic sizes";
    }
    return placed(*std::max_element(kinds_.begin(), kinds_.end(), [](const auto& a, const auto& b) {
      return a.size() < b.size();
    }));
  }

 private:
  // All nodes that show the gathered rows with all their features.
  void find_shown() {
    const Dim features = graph_.last_dim(gather_.value);
    shown_.push_back({gather_.value, {}});
    for (size_t at = 0; at < shown_.size(); ++at) {
      const NodeId node = shown_[at].node;
      for (const NodeId user : graph_.users(node)) {
        if (shows(user) != nullptr || graph_.first_operand(user) != node) continue;
        std::vector<NodeId> steps = shown_[at].steps;
        if (graph_.is_bit_view(user) || narrows(user)) {
          steps.push_back(user);
        } else if (!graph_.is_view(user) && !graph_.is_identity(user)) {
          continue;
        }
        const auto dims = graph_.dims(user);
        if (!graph_.is_tensor(user) || dims.empty() || dims.back() != features) continue;
        shown_.push_back({user, std::move(steps)});
      }
    }
  }

  // A cast that leaves no more bytes to gather.
  [[nodiscard]] bool narrows(NodeId node) const {
    return graph_.is_cast(node) &&
           graph_.item_bytes(node) <= graph_.item_bytes(graph_.first_operand(node));
  }

  [[nodiscard]] const ShownRows* shows(NodeId node) const {
    const auto found = std::find_if(shown_.begin(), shown_.end(),
                                    [&](const ShownRows& one) { return one.node == node; });
    return found == shown_.end() ? nullptr : &*found;
  }

  // The products that could be one operator together, by kind.
  void find_products() {
    for (const ShownRows& each : shown_) {
      for (const NodeId user : graph_.users(each.node)) {
        if (shows(user) != nullptr) continue;
        FoundProduct found = read_product(graph_, user);
        if (const Why* why = std::get_if<Why>(&found)) why_ = *why;
        const Product* one = std::get_if<Product>(&found);
        if (one == nullptr) continue;
        const auto others = one->operands();
        if (one->left != each.node ||
            std::find(others.begin(), others.end(), each.node) != others.end()) {
          if (why_.empty()) {
            why_ = "a matrix product reads it as another operand than its left one";
          }
          continue;
        }
        add(*one);
      }
    }
    for (auto& kind : kinds_) {
      std::sort(kind.begin(), kind.end(), [&](const Product& a, const Product& b) {
        return graph_.is_before(a.value, b.value);
      });
    }
  }

  void add(const Product& one) {
    const auto of = std::find_if(kinds_.begin(), kinds_.end(),
                                 [&](const auto& kind) { return alike(kind[0], one); });
    if (of == kinds_.end()) {
      kinds_.push_back({one});
    } else {
      of->push_back(one);
    }
  }

  [[nodiscard]] bool alike(const Product& a, const Product& b) const {
    if (a.scales.has_value() != b.scales.has_value()) return false;
    if (a.scales && a.scales->left != b.scales->left) return false;
    const auto& mine = shows(a.left)->steps;
    const auto& theirs = shows(b.left)->steps;
    return std::equal(mine.begin(), mine.end(), theirs.begin(), theirs.end(),
                      [&](NodeId x, NodeId y) { return same_step(x, y); });
  }

  [[nodiscard]] bool same_step(NodeId x, NodeId y) const {
    if (x == y) return true;
    const auto same = [](std::span<const Argument> a, std::span<const Argument> b) {
      return std::equal(a.begin(), a.end(), b.begin(), b.end());
    };
    return table_.target(x) == table_.target(y) &&
           same(table_.args(x).subspan(1), table_.args(y).subspan(1)) &&
           same(table_.kwargs(x), table_.kwargs(y));
  }

  // The pair of those products whose other operands can be computed before the gather.
  std::variant<GatherPair, Why> placed(const std::vector<Product>& products) {
    GatherPair pair;
    pair.gather = gather_;
    pair.steps = shows(products[0].left)->steps;
    find_scale(products[0], pair);
    pair.before = first_reader(products[0]);
    for (const ShownRows& one : shown_) {
      if (graph_.first_new_reader(one.node) < graph_.place(pair.before)) {
        return "an operator that hides another collective reads what it gathers first";
      }
    }
    std::set<NodeId> own{gather_.call, gather_.value};
    for (const ShownRows& one : shown_) own.insert(one.node);
    if (pair.scale_gather) own.insert({pair.scale_gather->call, pair.scale_gather->value});
    for (const Product& one : products) own.insert(one.inside.begin(), one.inside.end());
    std::set<NodeId> moved;
    for (const Product& each : products) {
      std::vector<NodeId> needed = each.operands();
      if (pair.left_scale != kNone) needed.push_back(pair.left_scale);
      const auto ahead = moved_ahead(needed, pair.before, own);
      if (!ahead) continue;
      pair.products.push_back(each);
      moved.insert(ahead->begin(), ahead->end());
    }
    if (pair.products.empty()) {
      return "the other operand of its product is not there before it is read";
    }
    pair.moved.assign(moved.begin(), moved.end());
    std::sort(pair.moved.begin(), pair.moved.end(),
              [&](NodeId a, NodeId b) { return graph_.is_before(a, b); });
    pair.returns = is_read_elsewhere(pair.products);
    if (pair.returns && !pair.steps.empty()) {
      return "what it gathers is read as another dtype, too";
    }
    for (const ShownRows& one : shown_) {
      if (one.node != gather_.value) pair.shown.push_back(one.node);
    }
    std::sort(pair.shown.begin(), pair.shown.end());
    return fits(std::move(pair));
  }

  std::variant<GatherPair, Why> fits(GatherPair pair) {
    const auto& scales = pair.products[0].scales;
    if (scales && gather_.dim != 0 && scales->by_row) {
      return "it gathers dim " + std::to_string(gather_.dim) + " of what has a scale a row";
    }
    pair.layout = scales ? &operators_.scaled_gather : &operators_.gather;
    if (!pair.layout->is_there()) {
      return std::string("this torch has no operator symm_mem.") +
             (scales ? "fused_all_gather_scaled_matmul" : "fused_all_gather_matmul") +
             " that takes what it needs";
    }
    if (!graph_.can_list(gather_.operand) || !graph_.can_list(gather_.value)) {
      return "it has several symbolic sizes";
    }
    return pair;
  }

  // The scale of the left operand: where its rows were gathered likewise, this rank's.
  void find_scale(const Product& one, GatherPair& pair) {
    if (!one.scales) return;
    pair.left_scale = one.scales->left;
    const FoundCollective* other = gather_of_(pair.left_scale);
    if (other == nullptr || !one.scales->by_row || other->dim != 0 || gather_.dim != 0) return;
    if (other->group != gather_.group || other->size != gather_.size) return;
    const auto mine = graph_.dims(other->operand);
    const auto rows = graph_.dims(gather_.operand);
    if (mine.size() != 2 || rows.size() != 2 || mine[0] != rows[0]) return;
    if (!graph_.is_row_major(other->operand)) return;
    pair.left_scale = other->operand;
    pair.scale_gather = *other;
  }

  // The first that reads the gathered rows, or shows them.
  [[nodiscard]] NodeId first_reader(const Product& any) const {
    NodeId first = kNone;
    const auto look = [&](NodeId node) {
      if (first == kNone || graph_.is_before(node, first)) first = node;
    };
    for (const ShownRows& one : shown_) {
      if (one.node != gather_.value) look(one.node);
      for (const NodeId user : graph_.users(one.node)) {
        if (shows(user) == nullptr) look(user);
      }
    }
    return first == kNone ? any.inside[0] : first;
  }

  // What must be moved before a place so that operands are there; nothing where it cannot be.
  std::optional<std::vector<NodeId>> moved_ahead(const std::vector<NodeId>& operands, NodeId before,
                                                 const std::set<NodeId>& own) {
    std::vector<NodeId> pending;
    const auto wait_for = [&](NodeId node) {
      if (!graph_.is_before(node, before)) pending.push_back(node);
    };
    for (const NodeId node : operands) wait_for(node);
    std::vector<NodeId> found;
    while (!pending.empty()) {
      const NodeId node = pending.back();
      pending.pop_back();
      if (std::find(found.begin(), found.end(), node) != found.end()) continue;
      // Nothing can be placed right before a node that was moved itself.
      if (own.contains(node) || found.size() >= kMostMoved || graph_.was_moved(before) ||
          !is_pure(graph_, node)) {
        return std::nullopt;
      }
      found.push_back(node);
      for (const Argument operand : table_.operands(node)) {
        if (operand.is_node()) wait_for(operand.payload);
      }
    }
    return found;
  }

  [[nodiscard]] bool is_read_elsewhere(const std::vector<Product>& products) const {
    std::set<NodeId> inside;
    for (const Product& one : products) inside.insert(one.inside.begin(), one.inside.end());
    return std::any_of(shown_.begin(), shown_.end(), [&](const ShownRows& one) {
      if (graph_.first_new_reader(one.node) != UINT64_MAX) return true;
      const auto users = graph_.users(one.node);
      return std::any_of(users.begin(), users.end(), [&](NodeId user) {
        return !inside.contains(user) && shows(user) == nullptr;
      });
    });
  }

  LiveGraph& graph_;
  const NodeTable& table_;
  const FusedOperators& operators_;
  const FoundCollective& gather_;
  const GatherOf& gather_of_;
  std::vector<ShownRows> shown_;
  std::vector<std::vector<Product>> kinds_;
  Why why_;
};

}  // namespace

std::variant<GatherPair, Why> find_gather_pair(LiveGraph& graph, const FusedOperators& operators,
                                               const FoundCollective& gather,
                                               const GatherOf& gather_of) {
  return GatherPairFinder(graph, operators, gather, gather_of).find();
}

}  // namespace spfast
