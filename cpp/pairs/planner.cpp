#include "pairs/planner.h"

#include <optional>
#include <unordered_map>
#include <utility>

#include "pairs/gather_pair.h"
#include "pairs/pair_writer.h"
#include "pairs/scatter_pair.h"
#include "rewrite/effects.h"
#include "rewrite/matrix_products.h"

namespace spfast {
namespace {

class PairPlanner {
 public:
  PairPlanner(NodeTable& table, MetaSource& source, const std::vector<CollectiveForm>& forms,
              const FusedOperators& operators, const PairPolicy& policy)
      : table_(table),
        graph_(table, source),
        forms_(forms),
        operators_(operators),
        policy_(policy),
        effects_(table),
        writer_(graph_, out_) {}

  PairPlan run() {
    find_calls();
    read_ahead();
    for (const auto& [call, form] : calls_) {
      auto read = read_collective(graph_, *form, call);
      const auto* found = std::get_if<FoundCollective>(&read);
      if (found != nullptr && found->gathers) gathers_.emplace(found->value, *found);
    }
    for (const auto& [call, form] : calls_) {
      if (graph_.is_gone(call)) continue;  // a gather of scales that was fused with another
      // Read anew, for its readers may have changed.
      auto read = read_collective(graph_, *form, call);
      Why why = std::holds_alternative<Why>(read) ? std::get<Why>(read)
                                                  : fuse(std::get<FoundCollective>(read));
      if (!why.empty()) out_.left.push_back({call, std::move(why)});
    }
    std::erase_if(out_.left, [&](const LeftCollective& one) { return graph_.is_gone(one.call); });
    writer_.finish();
    return std::move(out_);
  }

 private:
  void find_calls() {
    std::unordered_map<TargetId, const CollectiveForm*> by_target;
    for (const CollectiveForm& form : forms_) by_target[form.target] = &form;
    for (NodeId node = 0; node < table_.size(); ++node) {
      if (table_.op(node) != Op::kCallFunction) continue;
      const auto form = by_target.find(table_.target(node));
      if (form != by_target.end()) calls_.emplace_back(node, form->second);
    }
  }

  // The values of what stands around the collectives, all at once: asked for one by one they take
  // longer.
  void read_ahead() {
    std::vector<NodeId> wanted;
    const auto with_operands = [&](NodeId node) {
      wanted.push_back(node);
      // A product of matrices of one dtype is told by its result alone.
      if (product_kind(table_.target(node)) == ProductKind::kMm) return;
      for (const Argument operand : table_.operands(node)) {
        if (operand.is_node()) wanted.push_back(operand.payload);
      }
    };
    for (const auto& [call, form] : calls_) {
      NodeId value = call;
      const auto users = table_.users(call);
      if (form->wait != kNone && users.size() == 1) value = users[0];
      wanted.push_back(value);
      const NodeId part = graph_.first_operand(call);
      if (part != kNone) wanted.push_back(part);
      if (form->gathers) {
        for (const NodeId user : table_.users(value)) {
          if (table_.op(user) == Op::kCallFunction) with_operands(user);
        }
      } else if (part != kNone) {
        with_operands(part);
      }
    }
    graph_.read_ahead(wanted);
  }

  const PairPolicy::Group& group_of(const FoundCollective& one) {
    const uint64_t key = argument_key(one.group);
    const auto known = groups_.find(key);
    if (known != groups_.end()) return known->second;
    return groups_.emplace(key, policy_.group(one.group, one.call)).first->second;
  }

  // Empty where the pair is fused; else why it stays.
  Why fuse(const FoundCollective& one) {
    const PairPolicy::Group group = group_of(one);
    if (!group.problem.empty()) return group.problem;
    if (one.gathers) {
      const auto found = find_gather_pair(graph_, operators_, one, [&](NodeId value) {
        const auto gather = gathers_.find(value);
        const bool there = gather != gathers_.end() && !graph_.is_gone(gather->second.call);
        return there ? &gather->second : nullptr;
      });
      if (const Why* why = std::get_if<Why>(&found)) return *why;
      const auto& pair = std::get<GatherPair>(found);
      std::vector<NodeId> reads{one.operand};
      for (const Product& each : pair.products) {
        for (const NodeId operand : each.operands()) reads.push_back(operand);
      }
      if (pair.left_scale != kNone) reads.push_back(pair.left_scale);
      Why why = stays(reads);
      if (why.empty()) {
        why = policy_.worth(one.group, pair.products[0].left, graph_.rows(one.value),
                            graph_.last_dim(one.value));
      }
      if (why.empty()) writer_.write(pair, group.name);
      return why;
    }
    const auto found = find_scatter_pair(graph_, operators_, one);
    if (const Why* why = std::get_if<Why>(&found)) return *why;
    const auto& pair = std::get<ScatterPair>(found);
    std::vector<NodeId> reads{pair.product.matrix()};
    for (const NodeId operand : pair.product.operands()) reads.push_back(operand);
    for (const Product& one : pair.added) {
      reads.push_back(one.left);
      reads.push_back(one.right);
    }
    if (pair.product.scales) reads.push_back(pair.product.scales->left);
    Why why = stays(reads);
    if (why.empty()) {
      // What plain matrices hold, their product holds; it alone is known to have a value.
      const NodeId operand = pair.product.scales ? pair.product.left : pair.product.value;
      why = policy_.worth(one.group, operand, graph_.rows(pair.product.value),
                          graph_.last_dim(pair.product.value));
    }
    if (why.empty()) writer_.write(pair, group.name);
    return why;
  }

  // What is read at another time than before must hold the same then.
  Why stays(const std::vector<NodeId>& reads) {
    for (const NodeId node : reads) {
      if (effects_.writer_of(node) == kNone) continue;
      graph_.read_names();
      return "'" + table_.node_label(node) + "', which it reads, is written to in place";
    }
    return {};
  }

  NodeTable& table_;
  LiveGraph graph_;
  const std::vector<CollectiveForm>& forms_;
  const FusedOperators& operators_;
  const PairPolicy& policy_;
  Effects effects_;
  PairPlan out_;
  PairWriter writer_;
  std::vector<std::pair<NodeId, const CollectiveForm*>> calls_;
  std::unordered_map<NodeId, FoundCollective> gathers_;  // by what they yield
  std::unordered_map<uint64_t, PairPolicy::Group> groups_;
};

}  // namespace

PairPlan plan_pairs(NodeTable& table, MetaSource& source, const std::vector<CollectiveForm>& forms,
                    const FusedOperators& operators, const PairPolicy& policy) {
  return PairPlanner(table, source, forms, operators, policy).run();
}

}  // namespace spfast
