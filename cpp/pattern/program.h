// Patterns compiled to programs. The programs of all patterns are one tree: patterns that begin
// alike share their first steps.
//
// A step finds the next operation: among the users of one already found, or as the operand of one.
// It then checks each of the operation's operands. Registers are numbered in the order in which
// steps fill them, so equal beginnings have equal numbers whatever their patterns call them.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "pattern/pattern.h"

namespace spfast {

enum class CheckKind : uint8_t {
  kRegister,  // the value in this register, looked through noise
  kBind,      // fill this slot
  kSame,      // what this slot holds
  kLiteral,
  kIgnored,
};

struct Check {
  CheckKind kind = CheckKind::kIgnored;
  uint32_t index = 0;  // a register or a slot
  SharedList<Literal> literals;
  bool needs_rank = false;  // some literal is the last dim
  friend bool operator==(const Check&, const Check&) = default;
};

struct Step {
  bool upward = false;  // false: among the users of a register; true: the value in a slot
  uint32_t source = 0;  // that register or slot
  bool commutative = false;
  SharedList<Form> forms;
  std::vector<Check> checks;
  friend bool operator==(const Step&, const Step&) = default;
};

// A rule is complete at a tree node; where its operations and parameters are.
struct Accept {
  uint32_t rule = 0;
  std::vector<uint32_t> operation_registers;  // by operation of the pattern
  std::vector<uint32_t> parameter_slots;      // by parameter; kNone if the pattern never uses it
};

// The steps below a tree node that start from the same place, by operator. So a candidate meets
// only the steps that could take it, however many patterns are registered.
struct Dispatch {
  bool upward = false;
  uint32_t source = 0;
  uint32_t first = kNone;                               // the tree node that was added first
  std::vector<std::pair<TargetId, uint32_t>> children;  // sorted: operator, tree node
};

struct TreeNode {
  Step step;
  uint32_t parent = kNone;
  uint32_t depth = 0;       // the register that the step fills
  uint32_t rule_below = 0;  // one rule that goes through here, to name in a failure
  std::vector<uint32_t> children;
  std::vector<Dispatch> dispatch;
  std::vector<Accept> accepts;
};

struct Rule {
  std::string name;
  int32_t priority = 0;
  std::vector<Role> roles;
  std::vector<std::string> parameter_names;
};

class ProgramSet {
 public:
  // Raises UserError when the pattern is not well formed. Several patterns may share a rule's name:
  // they are its variants.
  void add(const Pattern& pattern);
  [[nodiscard]] const std::vector<TreeNode>& nodes() const { return nodes_; }
  [[nodiscard]] const std::vector<uint32_t>& roots() const { return roots_; }
  [[nodiscard]] const std::vector<Dispatch>& root_dispatch() const { return root_dispatch_; }
  [[nodiscard]] const std::vector<Rule>& rules() const { return rules_; }
  [[nodiscard]] uint32_t max_registers() const { return max_registers_; }
  [[nodiscard]] uint32_t max_slots() const { return max_slots_; }
  // The tree, one step a line, for people and golden tests.
  [[nodiscard]] std::string to_string() const;

 private:
  uint32_t child_for(uint32_t parent, const Step& step, uint32_t rule);

  std::vector<TreeNode> nodes_;
  std::vector<uint32_t> roots_;
  std::vector<Dispatch> root_dispatch_;
  std::vector<Rule> rules_;
  std::unordered_map<std::string, uint32_t> rule_ids_;
  std::unordered_multimap<uint64_t, uint32_t> by_step_;  // hash of parent and step: tree node
  uint32_t max_registers_ = 1;
  uint32_t max_slots_ = 0;
};

[[nodiscard]] std::string format_operators(const Step& step);
// Where this operator, matched by this step, names the last dim.
[[nodiscard]] std::vector<Location> last_dim_locations(const Step& step, TargetId target);

}  // namespace spfast
