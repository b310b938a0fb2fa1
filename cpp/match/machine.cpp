#include "match/machine.h"

#include <algorithm>

#include "base/check.h"
#include "table/targets.h"

namespace spfast {

Machine::Machine(const NodeTable& table, const ProgramSet& programs)
    : table_(table),
      programs_(programs),
      registers_(programs.max_registers()),
      slots_(programs.max_slots()) {}

void Machine::run(const LookThrough& look, const Anchor& anchor, uint32_t anchor_index,
                  uint32_t rank, std::vector<Match>& matches, Failure& failure) {
  look_ = &look;
  anchor_index_ = anchor_index;
  matches_ = &matches;
  failure_ = &failure;
  std::fill(slots_.begin(), slots_.end(), Value{});
  registers_[0] = {anchor.reduced, rank};
  explore(programs_.root_dispatch(), 1);
}

// Recursion here is bounded by the length of the longest pattern, not by the graph.
void Machine::explore(const std::vector<Dispatch>& groups, uint32_t filled) {
  for (const Dispatch& group : groups) {
    if (group.upward) {
      const Value value = slots_[group.source];
      if (value.is_node()) try_candidate(group, look_->root(value.payload), filled);
      continue;
    }
    const NodeId source = registers_[group.source].node;
    std::vector<NodeId> users;
    collect_users(source, users);
    bool taken = false;
    for (const NodeId user : users) {
      const TargetId target = table_.target(user);
      const auto by_target = [](const auto& entry, TargetId id) { return entry.first < id; };
      const auto first =
          std::lower_bound(group.children.begin(), group.children.end(), target, by_target);
      taken = taken || (first != group.children.end() && first->first == target);
      try_candidate(group, user, filled);
    }
    if (!taken) note_missing(group, source);
  }
}

// The users of a value under all its names, in graph order.
void Machine::collect_users(NodeId value, std::vector<NodeId>& out) const {
  std::vector<NodeId> names{value};
  while (!names.empty()) {
    const NodeId name = names.back();
    names.pop_back();
    for (const NodeId user : table_.users(name)) {
      // copy(self, src) is another name of src only.
      if (look_->root(user) == look_->root(value) && look_->is_noise(user)) names.push_back(user);
      out.push_back(user);
    }
  }
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
}

void Machine::try_candidate(const Dispatch& group, NodeId node, uint32_t filled) {
  const TargetId target = table_.target(node);
  if (table_.op(node) != Op::kCallFunction) return;
  auto entry = std::lower_bound(group.children.begin(), group.children.end(), target,
                                [](const auto& e, TargetId id) { return e.first < id; });
  for (; entry != group.children.end() && entry->first == target; ++entry) {
    try_step(entry->second, node, filled);
  }
}

void Machine::try_step(uint32_t tree_node, NodeId node, uint32_t filled) {
  const TreeNode& tree = programs_.nodes()[tree_node];
  const Step& step = tree.step;
  const TargetId target = table_.target(node);
  for (const Form& form : step.forms) {
    if (form.target != target) continue;
    for (int order = 0; order < (step.commutative ? 2 : 1); ++order) {
      const size_t mark = trail_.size();
      failed_check_ = kNone;
      if (try_form(step, form, node, order == 1, filled)) {
        registers_[filled] = {node, result_rank(node, filled)};
        if (failure_->depth < tree.depth) {
          *failure_ = {tree.rule_below, tree_node, tree.depth, node, kNone, {}};
        }
        if (!tree.accepts.empty()) accept(tree_node);
        explore(tree.dispatch, filled + 1);
      } else {
        note_failure(tree_node, node, failed_check_, failed_value_);
      }
      while (trail_.size() > mark) {
        slots_[trail_.back()] = Value{};
        trail_.pop_back();
      }
    }
  }
}

bool Machine::try_form(const Step& step, const Form& form, NodeId node, bool swapped,
                       uint32_t filled) {
  const uint32_t rank =
      rank_of(fetch(node, form.where.empty() ? Location{0, {}, -1} : form.where[0]), filled);
  for (size_t i = 0; i < step.checks.size(); ++i) {
    const size_t place = swapped && i < 2 ? 1 - i : i;
    const Value found = fetch(node, form.where[place]);
    if (!check_operand(step.checks[i], found, rank)) {
      failed_check_ = static_cast<uint32_t>(i);
      failed_value_ = found;
      return false;
    }
  }
  return check_fixed(form, node, step.checks.size());
}

bool Machine::check_operand(const Check& check, Value found, uint32_t rank) {
  switch (check.kind) {
    case CheckKind::kRegister:
      return found.is_node() &&
             look_->root(found.payload) == look_->root(registers_[check.index].node);
    case CheckKind::kBind:
      if (found.tag == Tag::kAbsent) found.tag = Tag::kNoneType;
      slots_[check.index] = found;
      trail_.push_back(check.index);
      return true;
    case CheckKind::kSame: {
      const Value bound = slots_[check.index];
      if (bound.is_node() && found.is_node()) {
        return look_->root(bound.payload) == look_->root(found.payload);
      }
      return bound == found;
    }
    case CheckKind::kLiteral:
      return std::any_of(check.literals.begin(), check.literals.end(), [&](const Literal& one) {
        return literal_equals(table_, found, one, rank);
      });
    case CheckKind::kIgnored:
      return true;
  }
  return false;
}

// No literal is ever ignored: what the form does not name must be absent or as the form says.
bool Machine::check_fixed(const Form& form, NodeId node, size_t named) {
  const auto refuse = [&](Value value) {
    failed_check_ = static_cast<uint32_t>(named);
    failed_value_ = value;
    return false;
  };
  for (const Fixed& fixed : form.fixed) {
    const Value value = fetch(node, fixed.where);
    if (value.tag == Tag::kAbsent) {
      if (fixed.required) return refuse(value);
      continue;
    }
    if (!literal_equals(table_, value, fixed.value, 0)) return refuse(value);
  }
  const auto covers = [](const Location& where, size_t position, const std::string* keyword) {
    return keyword == nullptr ? where.position == static_cast<int32_t>(position)
                              : where.keyword == *keyword;
  };
  const auto is_named = [&](size_t position, const std::string* keyword) {
    for (const Location& where : form.where) {
      if (covers(where, position, keyword)) return true;
    }
    return std::any_of(form.fixed.begin(), form.fixed.end(),
                       [&](const Fixed& fixed) { return covers(fixed.where, position, keyword); });
  };
  const auto args = table_.args(node);
  for (size_t i = 0; i < args.size(); ++i) {
    if (!is_named(i, nullptr)) return refuse(args[i]);
  }
  const auto pairs = table_.kwargs(node);
  for (size_t i = 0; i < pairs.size(); i += 2) {
    if (!is_named(0, &table_.string(pairs[i].payload))) return refuse(pairs[i + 1]);
  }
  return true;
}

Value Machine::fetch(NodeId node, const Location& where) const {
  Value value;
  const auto args = table_.args(node);
  if (where.position >= 0 && static_cast<size_t>(where.position) < args.size()) {
    value = args[where.position];
  } else if (!where.keyword.empty()) {
    const auto pairs = table_.kwargs(node);
    for (size_t i = 0; i < pairs.size(); i += 2) {
      if (table_.string(pairs[i].payload) == where.keyword) value = pairs[i + 1];
    }
  }
  if (where.item < 0) return value;
  if (value.tag != Tag::kList && value.tag != Tag::kTuple) return {};
  const auto items = table_.items(value);
  return static_cast<size_t>(where.item) < items.size() ? items[where.item] : Value{};
}

// The number of dims of a value of the stream, as far as it is known: 0 where it is not.
uint32_t Machine::rank_of(Value value, uint32_t filled) const {
  while (value.is_node()) {
    const NodeId node = value.payload;
    for (uint32_t i = filled; i-- > 0;) {
      if (registers_[i].node == node) return registers_[i].rank;
    }
    if ((table_.flags(node) & target_flag::kView) != 0 && table_.args(node).size() == 2) {
      const Value sizes = table_.args(node)[1];
      if (sizes.tag != Tag::kList && sizes.tag != Tag::kTuple) return 0;
      return static_cast<uint32_t>(table_.items(sizes).size());
    }
    const NodeId from = LookThrough::source(table_, node, look_->width());
    if (from == kNone) return 0;
    value = {Tag::kNode, from};
  }
  return 0;
}

uint32_t Machine::result_rank(NodeId node, uint32_t filled) const {
  uint32_t rank = 0;
  for (const Value value : table_.operands(node)) {
    rank = std::max(rank, rank_of(value, filled));
  }
  return rank;
}

void Machine::note_failure(uint32_t tree_node, NodeId node, uint32_t check, Value found) {
  const TreeNode& tree = programs_.nodes()[tree_node];
  // An operand that differs is nearer to a match than an operation that is missing.
  const bool deeper = failure_->rule == kNone || failure_->depth < tree.depth - 1 ||
                      (failure_->depth == tree.depth - 1 && failure_->check == kNone);
  if (deeper) *failure_ = {tree.rule_below, tree_node, tree.depth - 1, node, check, found};
}

void Machine::note_missing(const Dispatch& group, NodeId source) {
  const uint32_t first = group.children.front().second;
  const TreeNode& tree = programs_.nodes()[first];
  if (failure_->rule == kNone || failure_->depth == tree.depth - 1) {
    if (failure_->check != kNone) return;
    *failure_ = {tree.rule_below, first, tree.depth - 1, source, kNone, {}};
  }
}

void Machine::accept(uint32_t tree_node) {
  for (const Accept& accept : programs_.nodes()[tree_node].accepts) {
    Match match;
    match.tree_node = tree_node;
    match.rule = accept.rule;
    match.anchor = anchor_index_;
    match.operations.reserve(accept.operation_registers.size());
    for (const uint32_t r : accept.operation_registers) {
      match.operations.push_back(registers_[r].node);
    }
    match.parameters.reserve(accept.parameter_slots.size());
    for (const uint32_t slot : accept.parameter_slots) {
      match.parameters.push_back(slot == kNone ? Value{} : slots_[slot]);
    }
    matches_->push_back(std::move(match));
  }
}

}  // namespace spfast
