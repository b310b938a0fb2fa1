#include "pattern/program.h"

#include <algorithm>
#include <functional>

#include "base/check.h"
#include "base/work.h"
#include "table/targets.h"

namespace spfast {
namespace {

bool names_last_dim(const Literal& literal) {
  return literal.last_dim ||
         std::any_of(literal.items.begin(), literal.items.end(), names_last_dim);
}

// Orders the operations of one pattern into steps and numbers registers and slots on the way.
class Compiler {
 public:
  explicit Compiler(const Pattern& pattern)
      : pattern_(pattern),
        register_of_(pattern.operations.size(), kNone),
        value_slot_of_(pattern.operations.size(), kNone),
        parameter_slot_(pattern.parameters.size(), kNone),
        stream_(pattern.operations.size(), false) {}

  std::vector<Step> compile() {
    register_of_[0] = 0;
    stream_[0] = true;
    for (uint32_t i = 1; i < pattern_.operations.size(); ++i) {
      const Operation& operation = pattern_.operations[i];
      // Start from the operand that was found last. It is the furthest from the all_reduce, and
      // such values have fewer users.
      uint32_t source = kNone;
      for (const Operand& operand : operation.operands) {
        if (operand.kind != OperandKind::kOperation || !stream_[operand.index]) continue;
        stream_[i] = true;
        const uint32_t found = register_of_[operand.index];
        if (found != kNone && (source == kNone || found > source)) source = found;
      }
      if (!stream_[i]) continue;  // reached upward, from the operation that reads it
      emit(i, /*upward=*/false, source);
      resolve_pending();
    }
    return std::move(steps_);
  }

  Accept accept(uint32_t rule) const { return {rule, register_of_, parameter_slot_}; }
  [[nodiscard]] uint32_t registers() const { return registers_; }
  [[nodiscard]] uint32_t slots() const { return slots_; }

 private:
  void emit(uint32_t index, bool upward, uint32_t source) {
    const Operation& operation = pattern_.operations[index];
    Step step;
    step.upward = upward;
    step.source = source;
    step.commutative = operation.commutative;
    step.forms = operation.forms;
    for (const Operand& operand : operation.operands) step.checks.push_back(check_for(operand));
    register_of_[index] = registers_++;
    steps_.push_back(std::move(step));
  }

  Check check_for(const Operand& operand) {
    switch (operand.kind) {
      case OperandKind::kOperation: {
        if (register_of_[operand.index] != kNone) {
          return {CheckKind::kRegister, register_of_[operand.index], {}, false};
        }
        uint32_t& slot = value_slot_of_[operand.index];
        if (slot != kNone) return {CheckKind::kSame, slot, {}, false};
        slot = slots_++;
        pending_.push_back(operand.index);
        return {CheckKind::kBind, slot, {}, false};
      }
      case OperandKind::kParameter: {
        uint32_t& slot = parameter_slot_[operand.index];
        if (slot != kNone) return {CheckKind::kSame, slot, {}, false};
        slot = slots_++;
        return {CheckKind::kBind, slot, {}, false};
      }
      case OperandKind::kLiteral:
        return {CheckKind::kLiteral, 0, operand.literals,
                std::any_of(operand.literals.begin(), operand.literals.end(), names_last_dim)};
      case OperandKind::kIgnored:
        break;
    }
    return {};
  }

  void resolve_pending() {
    while (!pending_.empty()) {
      const uint32_t index = pending_.back();
      pending_.pop_back();
      emit(index, /*upward=*/true, value_slot_of_[index]);
    }
  }

  const Pattern& pattern_;
  std::vector<uint32_t> register_of_;
  std::vector<uint32_t> value_slot_of_;
  std::vector<uint32_t> parameter_slot_;
  std::vector<bool> stream_;
  std::vector<uint32_t> pending_;
  std::vector<Step> steps_;
  uint32_t registers_ = 1;  // register 0 is the anchor
  uint32_t slots_ = 0;
};

// Equal steps have equal hashes. Not all of a step goes into its hash; the rest is only compared.
uint64_t hash_of(uint32_t parent, const Step& step) {
  uint64_t hash = parent;
  const auto mix = [&](uint64_t value) {
    hash = (hash ^ value) * 0x9E3779B97F4A7C15U;
    hash ^= hash >> 32;
  };
  const auto mix_text = [&](const std::string& text) { mix(std::hash<std::string>()(text)); };
  const auto mix_literal = [&](const Literal& literal) {
    mix(static_cast<uint64_t>(literal.tag));
    mix(static_cast<uint64_t>(literal.integer));
    mix(std::hash<double>()(literal.number));
    mix_text(literal.text);
    mix(literal.items.size());
  };
  mix(step.upward ? 1 : 0);
  mix(step.source);
  for (const Form& form : step.forms) {
    mix(form.target);
    for (const Location& where : form.where) mix(static_cast<uint64_t>(where.position));
    for (const Fixed& fixed : form.fixed) mix_literal(fixed.value);
  }
  for (const Check& check : step.checks) {
    mix(static_cast<uint64_t>(check.kind));
    mix(check.index);
    for (const Literal& literal : check.literals) mix_literal(literal);
  }
  return hash;
}

void add_to_dispatch(std::vector<Dispatch>& groups, const Step& step, uint32_t child) {
  auto group = std::find_if(groups.begin(), groups.end(), [&](const Dispatch& known) {
    return known.upward == step.upward && known.source == step.source;
  });
  if (group == groups.end()) {
    groups.push_back({step.upward, step.source, child, {}});
    group = groups.end() - 1;
  }
  for (const Form& form : step.forms) {
    const std::pair<TargetId, uint32_t> entry{form.target, child};
    auto& children = group->children;
    const auto place = std::lower_bound(children.begin(), children.end(), entry);
    if (place == children.end() || *place != entry) children.insert(place, entry);
  }
}

}  // namespace

void ProgramSet::add(const Pattern& pattern) {
  check_pattern(pattern);
  Compiler compiler(pattern);
  const std::vector<Step> steps = compiler.compile();
  for (size_t i = 1; i < pattern.operations.size(); ++i) {
    if (compiler.accept(0).operation_registers[i] == kNone) {
      throw UserError("pattern '" + pattern.rule + "' has an operation that nothing else reads");
    }
  }
  const auto [place, fresh] =
      rule_ids_.try_emplace(pattern.rule, static_cast<uint32_t>(rules_.size()));
  const uint32_t rule_id = place->second;
  if (fresh) {
    rules_.push_back({pattern.rule, pattern.priority, pattern.parameters, pattern.parameter_names});
  } else if (rules_[rule_id].roles != pattern.parameters ||
             rules_[rule_id].priority != pattern.priority) {
    throw UserError("the variants of pattern '" + pattern.rule +
                    "' differ in their parameters or priority");
  }
  uint32_t at = kNone;
  for (const Step& step : steps) at = child_for(at, step, rule_id);
  Accept accept = compiler.accept(rule_id);
  const auto same = [&](const Accept& known) {
    return known.rule == accept.rule && known.operation_registers == accept.operation_registers &&
           known.parameter_slots == accept.parameter_slots;
  };
  if (std::none_of(nodes_[at].accepts.begin(), nodes_[at].accepts.end(), same)) {
    nodes_[at].accepts.push_back(std::move(accept));
  }
  max_registers_ = std::max(max_registers_, compiler.registers());
  max_slots_ = std::max(max_slots_, compiler.slots());
}

uint32_t ProgramSet::child_for(uint32_t parent, const Step& step, uint32_t rule) {
  const uint64_t hash = hash_of(parent, step);
  const auto [first, last] = by_step_.equal_range(hash);
  for (auto known = first; known != last; ++known) {
    SPFAST_WORK(1);
    const TreeNode& node = nodes_[known->second];
    if (node.parent == parent && node.step == step) return known->second;
  }
  TreeNode node;
  node.step = step;
  node.parent = parent;
  node.depth = parent == kNone ? 1 : nodes_[parent].depth + 1;
  node.rule_below = rule;
  const auto id = static_cast<uint32_t>(nodes_.size());
  nodes_.push_back(std::move(node));
  by_step_.emplace(hash, id);
  (parent == kNone ? roots_ : nodes_[parent].children).push_back(id);
  add_to_dispatch(parent == kNone ? root_dispatch_ : nodes_[parent].dispatch, nodes_[id].step, id);
  return id;
}

std::string format_operators(const Step& step) {
  std::string text;
  std::vector<TargetId> named;  // an operator may have several forms
  for (const Form& form : step.forms) {
    if (std::find(named.begin(), named.end(), form.target) != named.end()) continue;
    named.push_back(form.target);
    if (!text.empty()) text += " or ";
    text += target_name(form.target);
  }
  return text;
}

std::vector<Location> last_dim_locations(const Step& step, TargetId target) {
  std::vector<Location> places;
  for (const Form& form : step.forms) {
    if (form.target != target) continue;
    for (size_t i = 0; i < step.checks.size(); ++i) {
      const auto& literals = step.checks[i].literals;
      if (!literals.empty() && literals.front().last_dim) places.push_back(form.where[i]);
    }
  }
  return places;
}

std::string ProgramSet::to_string() const {
  std::string text;
  std::vector<uint32_t> stack(roots_.rbegin(), roots_.rend());
  while (!stack.empty()) {
    const TreeNode& node = nodes_[stack.back()];
    stack.pop_back();
    text.append(2 * size_t{node.depth - 1}, ' ');
    text += node.step.upward ? "slot " : "user of r";
    text += std::to_string(node.step.source) + ": " + format_operators(node.step);
    for (const Accept& accept : node.accepts) text += "  => " + rules_[accept.rule].name;
    text += '\n';
    stack.insert(stack.end(), node.children.rbegin(), node.children.rend());
  }
  return text;
}

}  // namespace spfast
