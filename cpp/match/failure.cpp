#include "match/match.h"
#include "table/targets.h"

namespace spfast {
namespace {

std::string format_node(const NodeTable& table, NodeId node) {
  return "%" + table.node_label(node) + " = " + target_name(table.target(node));
}

std::string expected_operand(const Check& check) {
  switch (check.kind) {
    case CheckKind::kLiteral: {
      std::string text;
      for (const Literal& literal : check.literals) {
        if (!text.empty()) text += " or ";
        text += format_literal(literal);
      }
      return text;
    }
    case CheckKind::kRegister:
      return "the value of the stream";
    case CheckKind::kSame:
      return "the same value as before";
    default:
      break;
  }
  return "another value";
}

}  // namespace

std::string format_failure(const NodeTable& table, const ProgramSet& programs,
                           const Failure& failure) {
  if (failure.rule == kNone) return "nothing reads it";
  const Step& step = programs.nodes()[failure.tree_node].step;
  std::string text = programs.rules()[failure.rule].name + ": ";
  if (failure.check == kNone) {
    text += "expected " + format_operators(step) + " on " + format_node(table, failure.node);
    const auto users = table.users(failure.node);
    if (users.empty()) return text + ", found no user";
    text += ", found ";
    for (size_t i = 0; i < users.size() && i < 3; ++i) {
      if (i > 0) text += ", ";
      text += format_node(table, users[i]);
    }
    if (users.size() > 3) text += ", ...";
    return text;
  }
  text += "at " + format_node(table, failure.node);
  if (failure.check >= step.checks.size()) {
    return text + ", expected its other arguments at their defaults, found " +
           table.format_value(failure.found);
  }
  return text + ", operand " + std::to_string(failure.check) + ": expected " +
         expected_operand(step.checks[failure.check]) + ", found " +
         table.format_value(failure.found);
}

}  // namespace spfast
