#include "match/machine.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <tuple>
#include <utility>

#include "base/check.h"
#include "base/work.h"
#include "table/targets.h"

namespace spfast {
namespace {

// How many steps are tried at one all_reduce. Real rules take some tens. A value with very many
// users takes some for each.
constexpr size_t kSteps = size_t{1} << 16;
constexpr size_t kStepsPerNode = 16;

}  // namespace

Machine::Machine(const NodeTable& table, const ProgramSet& programs)
    : table_(table),
      programs_(programs),
      registers_(programs.max_registers()),
      slots_(programs.max_slots()) {}

void Machine::run(LookThrough look, const Anchor& anchor, uint32_t anchor_index, uint32_t rank,
                  std::vector<Match>& matches, Failure& failure) {
  look_ = look;
  anchor_index_ = anchor_index;
  matches_ = &matches;
  failure_ = &failure;
  std::fill(slots_.begin(), slots_.end(), Argument{});
  registers_[0] = {anchor.reduced, rank};
  steps_left_ = kSteps + kStepsPerNode * table_.size();
  explore(programs_.root_dispatch(), 1);
}

// Recursion here is bounded by the length of the longest pattern, not by the graph.
void Machine::explore(const std::vector<Dispatch>& groups, uint32_t filled) {
  for (const Dispatch& group : groups) {
    if (group.upward) {
      const Argument value = slots_[group.source];
      if (value.is_node()) try_candidate(group, look_.root(value.payload), filled);
      continue;
    }
    const NodeId source = registers_[group.source].node;
    const size_t begin = users_.size();
    collect_users(source);
    const size_t end = users_.size();
    bool taken = false;
    for (size_t i = begin; i < end; ++i) taken |= try_candidate(group, users_[i], filled);
    users_.resize(begin);
    if (!taken) note_missing(group, source);
  }
}

// Appends the users of a value under all its aliases, in graph order.
void Machine::collect_users(NodeId value) {
  const size_t begin = users_.size();
  const NodeId root = look_.root(value);
  aliases_.assign(1, value);
  for (size_t i = 0; i < aliases_.size(); ++i) {
    const NodeId alias = aliases_[i];
    const auto users = table_.users(alias);
    SPFAST_WORK(users.size());
    users_.insert(users_.end(), users.begin(), users.end());
    for (const NodeId user : users) {
      // copy(self, src) is an alias of src only.
      if (look_.root(user) == root && user != root &&
          LookThrough::source(table_, user, look_.width()) == alias) {
        aliases_.push_back(user);
      }
    }
  }
  if (aliases_.size() == 1) return;
  const auto first = users_.begin() + static_cast<std::ptrdiff_t>(begin);
  std::sort(first, users_.end());
  users_.erase(std::unique(first, users_.end()), users_.end());
}

// Says whether some step is about this node's operator.
bool Machine::try_candidate(const Dispatch& group, NodeId node, uint32_t filled) {
  const TargetId target = table_.target(node);
  auto entry = std::lower_bound(group.children.begin(), group.children.end(), target,
                                [](const auto& e, TargetId id) { return e.first < id; });
  if (entry == group.children.end() || entry->first != target) return false;
  if (table_.op(node) != Op::kCallFunction) return true;
  for (; entry != group.children.end() && entry->first == target; ++entry) {
    try_step(entry->second, node, filled);
  }
  return true;
}

void Machine::try_step(uint32_t tree_node, NodeId node, uint32_t filled) {
  const TreeNode& tree = programs_.nodes()[tree_node];
  const Step& step = tree.step;
  const TargetId target = table_.target(node);
  SPFAST_WORK(1);
  if (steps_left_ <= 1) {
    steps_left_ = 0;
    return;
  }
  --steps_left_;
  for (const Form& form : step.forms) {
    if (form.target != target) continue;
    for (int order = 0; order < (step.commutative ? 2 : 1); ++order) {
      const size_t mark = trail_.size();
      failed_check_ = kNone;
      if (try_form(step, form, node, order == 1, filled)) {
        registers_[filled] = {node, kNone};
        if (failure_->depth < tree.depth) {
          *failure_ = {tree.rule_below, tree_node, tree.depth, node, kNone, {}};
        }
        if (!tree.accepts.empty()) accept(tree_node);
        explore(tree.dispatch, filled + 1);
      } else {
        note_failure(tree_node, node, failed_check_, failed_value_);
      }
      while (trail_.size() > mark) {
        slots_[trail_.back()] = Argument{};
        trail_.pop_back();
      }
    }
  }
}

bool Machine::try_form(const Step& step, const Form& form, NodeId node, bool swapped,
                       uint32_t filled) {
  for (size_t i = 0; i < step.checks.size(); ++i) {
    const Check& check = step.checks[i];
    const size_t place = swapped && i < 2 ? 1 - i : i;
    const Argument found = fetch(node, form.where[place]);
    const bool holds = check.kind == CheckKind::kLiteral
                           ? check_literal(check, form, node, found, filled)
                           : check_operand(check, found);
    if (!holds) {
      failed_check_ = static_cast<uint32_t>(i);
      failed_value_ = found;
      return false;
    }
  }
  return check_fixed(form, node, step.checks.size());
}

// A positive number can be the last dim only where the first operand's number of dims is known.
bool Machine::check_literal(const Check& check, const Form& form, NodeId node, Argument found,
                            uint32_t filled) {
  const uint32_t rank = check.needs_rank ? rank_of(fetch(node, form.where[0]), filled) : 0;
  return std::any_of(check.literals.begin(), check.literals.end(), [&](const Literal& literal) {
    return literal_equals(table_, found, literal, rank);
  });
}

bool Machine::check_operand(const Check& check, Argument found) {
  if (found.tag == Tag::kAbsent) found.tag = Tag::kNoneType;
  switch (check.kind) {
    case CheckKind::kRegister:
      return found.is_node() &&
             look_.root(found.payload) == look_.root(registers_[check.index].node);
    case CheckKind::kBind:
      slots_[check.index] = found;
      trail_.push_back(check.index);
      return true;
    case CheckKind::kSame:
      return is_same(slots_[check.index], found);
    case CheckKind::kLiteral:
    case CheckKind::kIgnored:
      return true;
  }
  return false;
}

// Literals are interned, so equal ones are equal values; a node is the same under any of its
// aliases, and a list the same as one of the same items.
bool Machine::is_same(Argument a, Argument b) const {
  std::vector<std::pair<Argument, Argument>> pending;
  while (true) {
    if (a.is_node() && b.is_node()) {
      if (look_.root(a.payload) != look_.root(b.payload)) return false;
    } else if (a.tag == b.tag && is_container(a.tag)) {
      const auto left = table_.items(a);
      const auto right = table_.items(b);
      if (left.size() != right.size()) return false;
      for (size_t i = 0; i < left.size(); ++i) pending.emplace_back(left[i], right[i]);
    } else if (!(a == b)) {
      return false;
    }
    if (pending.empty()) return true;
    std::tie(a, b) = pending.back();
    pending.pop_back();
  }
}

namespace {

// How many items of the list at this place a form names.
size_t items_named(const Form& form, const Location& list) {
  int32_t count = 0;
  const auto note = [&](const Location& where) {
    const bool here = where.position == list.position && where.keyword == list.keyword;
    if (here) count = std::max(count, where.item + 1);
  };
  for (const Location& where : form.where) note(where);
  for (const Fixed& fixed : form.fixed) note(fixed.where);
  return static_cast<size_t>(count);
}

}  // namespace

// No argument is ever ignored. What the pattern does not name must be absent, or what the form
// says.
bool Machine::check_fixed(const Form& form, NodeId node, size_t named) {
  const auto refuse = [&](Argument value) {
    failed_check_ = static_cast<uint32_t>(named);
    failed_value_ = value;
    return false;
  };
  for (const Fixed& fixed : form.fixed) {
    const Argument value = fetch(node, fixed.where);
    if (value.tag == Tag::kAbsent) {
      if (fixed.required) return refuse(value);
      continue;
    }
    if (!literal_equals(table_, value, fixed.value, 0)) return refuse(value);
  }
  const auto covers = [](const Location& where, size_t position,
                         std::optional<std::string_view> keyword) {
    return !keyword ? where.position == static_cast<int32_t>(position) : where.keyword == *keyword;
  };
  const auto is_named = [&](size_t position, std::optional<std::string_view> keyword) {
    for (const Location& where : form.where) {
      if (covers(where, position, keyword)) return true;
    }
    return std::any_of(form.fixed.begin(), form.fixed.end(),
                       [&](const Fixed& fixed) { return covers(fixed.where, position, keyword); });
  };
  const auto args = table_.args(node);
  for (size_t i = 0; i < args.size(); ++i) {
    if (!is_named(i, std::nullopt)) return refuse(args[i]);
  }
  const auto pairs = table_.kwargs(node);
  for (size_t i = 0; i < pairs.size(); i += 2) {
    if (!is_named(0, table_.string(pairs[i].payload))) return refuse(pairs[i + 1]);
  }
  for (const Location& where : form.where) {
    if (where.item < 0) continue;
    const Argument list = fetch(node, {where.position, where.keyword, -1});
    if (is_container(list.tag) && table_.items(list).size() > items_named(form, where)) {
      return refuse(list);
    }
  }
  return true;
}

Argument Machine::fetch(NodeId node, const Location& where) const {
  Argument value;
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
  if (!is_sequence(value.tag)) return {};
  const auto items = table_.items(value);
  return static_cast<size_t>(where.item) < items.size() ? items[where.item] : Argument{};
}

// The number of dims of a value of the stream, as far as it is known: 0 where it is not.
uint32_t Machine::rank_of(Argument value, uint32_t filled) {
  if (!value.is_node()) return 0;
  const NodeId node = look_.plain_root(value.payload);
  for (uint32_t i = filled; i-- > 0;) {
    if (look_.plain_root(registers_[i].node) == node) return result_rank(i);
  }
  const auto args = table_.args(node);
  if ((table_.flags(node) & target_flag::kView) == 0 || args.size() != 2) return 0;
  if (!is_sequence(args[1].tag)) return 0;
  return static_cast<uint32_t>(table_.items(args[1]).size());
}

// That of an operation is the largest of its operands'. Goes back register by register at most.
uint32_t Machine::result_rank(uint32_t at) {
  Register& result = registers_[at];
  if (result.rank == kNone) {
    uint32_t rank = 0;
    for (const Argument value : table_.operands(result.node)) {
      SPFAST_WORK(1);
      rank = std::max(rank, rank_of(value, at));
    }
    result.rank = rank;
  }
  return result.rank;
}

// The nearest miss: the most steps that held, then the most operands of the next one. An operand
// that differs is nearer than an operation that is missing.
void Machine::note_failure(uint32_t tree_node, NodeId node, uint32_t check, Argument found) {
  const TreeNode& tree = programs_.nodes()[tree_node];
  const uint32_t held = tree.depth - 1;
  const bool nearer =
      failure_->rule == kNone || failure_->depth < held ||
      (failure_->depth == held && (failure_->check == kNone || failure_->check < check));
  if (nearer) *failure_ = {tree.rule_below, tree_node, held, node, check, found};
}

void Machine::note_missing(const Dispatch& group, NodeId source) {
  const uint32_t first = group.first;
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
      match.parameters.push_back(slot == kNone ? Argument{} : slots_[slot]);
    }
    matches_->push_back(std::move(match));
  }
}

}  // namespace spfast
