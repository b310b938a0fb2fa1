// Carries a plan out on paper and says what is wrong with it: a reference to nothing, a node that
// would stand before what it reads, a user of an erased node, a full value where a shard belongs or
// the other way round. Empty if the plan is sound.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "rewrite/plan.h"
#include "table/targets.h"

namespace spfast::testing {

class PlanCheck {
 public:
  PlanCheck(const NodeTable& table, const Plan& plan) : table_(table), plan_(plan) {}

  std::string run() {
    place();
    if (error_.empty()) edit();
    if (error_.empty()) inspect();
    return error_;
  }

 private:
  using Place = std::pair<NodeId, uint32_t>;  // before this node; among what is created there

  void fail(const std::string& what, const Edit* edit = nullptr) {
    if (!error_.empty()) return;
    error_ = what;
    if (edit != nullptr) error_ += " (edit " + std::to_string(edit - plan_.edits.data()) + ")";
  }
  [[nodiscard]] bool is_node(NodeRef ref) const { return ref < table_.size(); }
  [[nodiscard]] bool known(NodeRef ref) const { return ref < table_.size() + plan_.created.size(); }
  [[nodiscard]] Place place_of(NodeRef ref) const {
    return is_node(ref) ? Place{ref, kNone} : places_[ref - table_.size()];
  }
  [[nodiscard]] bool sharded(NodeRef ref) const {
    if (!is_node(ref)) {
      const Created& made = plan_.created[ref - table_.size()];
      const auto form = made.meta.form;
      return form == MetaSpec::Form::kLocal || form == MetaSpec::Form::kOwn ||
             form == MetaSpec::Form::kFresh;
    }
    return resized_.contains(ref);
  }

  void place() {
    std::map<NodeId, uint32_t> used;
    for (const Created& made : plan_.created) {
      if (made.before >= table_.size()) return fail("a created node stands before nothing");
      if (made.origin >= table_.size()) return fail("a created node has no origin");
      if (made.meta.like >= table_.size()) return fail("a created node is like nothing");
      if (made.meta.token_class >= plan_.classes.size()) return fail("a class that is not there");
      places_.push_back({made.before, used[made.before]++});
    }
  }

  void read(NodeRef user, const PlanArg& arg, const Edit& edit) {
    if (arg.kind == PlanArg::Kind::kNode) {
      if (!known(arg.node)) return fail("an argument is no node", &edit);
      if (erased_.contains(arg.node)) return fail("an argument is erased", &edit);
      reads_[user].insert(arg.node);
    }
    if (arg.kind == PlanArg::Kind::kCopy) {
      if (!is_node(arg.node)) return fail("a copied argument of no node", &edit);
      const auto args = table_.args(arg.node);
      if (static_cast<uint64_t>(arg.value) >= args.size()) {
        return fail("a copied argument that is not there", &edit);
      }
      const Argument copied = args[static_cast<size_t>(arg.value)];
      if (copied.is_node()) reads_[user].insert(copied.payload);
    }
    for (const PlanArg& item : arg.items) read(user, item, edit);
  }

  void edit() {
    for (NodeId node = 0; node < table_.size(); ++node) {
      for (const Argument value : table_.operands(node)) {
        if (value.is_node()) reads_[node].insert(value.payload);
      }
    }
    uint32_t created = 0;
    for (const Edit& edit : plan_.edits) {
      switch (edit.kind) {
        case Edit::Kind::kCreate:
          if (edit.a != created++) return fail("nodes are created out of order", &edit);
          for (const PlanArg& arg : plan_.created[edit.a].args) {
            read(table_.size() + edit.a, arg, edit);
          }
          break;
        case Edit::Kind::kRewire:
          if (!is_node(edit.a) || !is_node(edit.b) || !known(edit.c)) {
            return fail("a rewiring of no node", &edit);
          }
          if (reads_[edit.a].erase(edit.b) == 0) return fail("rewires what is not read", &edit);
          reads_[edit.a].insert(edit.c);
          break;
        case Edit::Kind::kSetDim:
          if (!is_node(edit.a) || edit.b >= table_.args(edit.a).size()) {
            return fail("sets an argument that is not there", &edit);
          }
          break;
        case Edit::Kind::kResize:
          if (!is_node(edit.a) || edit.b >= plan_.metas.size()) {
            return fail("resizes no node", &edit);
          }
          resized_.emplace(edit.a, plan_.metas[edit.b].factor);
          break;
        case Edit::Kind::kMove:
          return fail("moves a node", &edit);  // plans of pairs alone do
        case Edit::Kind::kErase:
          if (!is_node(edit.a) || !erased_.insert(edit.a).second) {
            return fail("erases no node", &edit);
          }
          if (table_.op(edit.a) != Op::kCallFunction) return fail("erases an interface", &edit);
          reads_.erase(edit.a);
          break;
      }
      if (!error_.empty()) return;
    }
    if (created != plan_.created.size()) fail("a node is never created");
  }

  void inspect() {
    for (const auto& [user, operands] : reads_) {
      for (const NodeRef operand : operands) {
        if (erased_.contains(operand)) return fail("node " + name(user) + " reads an erased one");
        if (place_of(operand) >= place_of(user)) {
          return fail("node " + name(user) + " stands before what it reads, " + name(operand));
        }
        check_kinds(user, operand);
      }
    }
  }

  void check_kinds(NodeRef user, NodeRef operand) {
    if (!is_node(user)) return;
    if (sharded(operand) && !sharded(user)) {
      fail("node " + name(user) + " needs a full value and reads the shard " + name(operand));
    }
    // What a resized node reads is a shard, or the same for every row, gathered or not: it has no
    // more dims than there are features, or a single row.
    if (!sharded(user) || sharded(operand)) return;
    if (!is_node(operand) &&
        plan_.created[operand - table_.size()].meta.form == MetaSpec::Form::kOne) {
      return;
    }
    const NodeId value =
        is_node(operand) ? operand : plan_.created[operand - table_.size()].meta.like;
    const Meta& meta = table_.meta(value);
    const auto dims = table_.dims(meta);
    const auto features = static_cast<size_t>(resized_.at(user));
    if (meta.kind == MetaKind::kTensor && dims.size() > features && dims[0] != Dim::of(1)) {
      fail("node " + name(user) + " reads the full rows of " + name(operand));
    }
  }

  [[nodiscard]] std::string name(NodeRef ref) const {
    return is_node(ref) ? table_.node_label(ref) : "new_" + std::to_string(ref - table_.size());
  }

  const NodeTable& table_;
  const Plan& plan_;
  std::string error_;
  std::vector<Place> places_;
  std::map<NodeRef, std::set<NodeRef>> reads_;
  std::map<NodeId, int64_t> resized_;  // how many last dims of each are features
  std::set<NodeId> erased_;
};

inline std::string check_plan(const NodeTable& table, const Plan& plan) {
  return PlanCheck(table, plan).run();
}

}  // namespace spfast::testing
