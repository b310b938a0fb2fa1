#include "pattern/pattern.h"

#include "base/check.h"

namespace spfast {
namespace {

bool is_number(Tag tag) { return tag == Tag::kInt || tag == Tag::kFloat; }

bool last_dim_equals(const NodeTable& table, Argument value, uint32_t rank) {
  if (is_sequence(value.tag)) {
    const auto items = table.items(value);
    if (items.size() != 1) return false;
    value = items[0];
  }
  if (value.tag != Tag::kInt) return false;
  const int64_t dim = table.as_int(value);
  return dim == -1 || (rank > 0 && dim == int64_t{rank} - 1);
}

}  // namespace

bool literal_equals(const NodeTable& table, Argument value, const Literal& literal, uint32_t rank) {
  if (literal.last_dim) return last_dim_equals(table, value, rank);
  if (is_number(literal.tag) && is_number(value.tag)) {
    if (literal.tag == Tag::kInt && value.tag == Tag::kInt) {
      return table.as_int(value) == literal.integer;
    }
    return table.as_float(value) == literal.number;
  }
  if (is_sequence(literal.tag) && is_sequence(value.tag)) {
    const auto items = table.items(value);
    if (items.size() != literal.items.size()) return false;
    for (size_t i = 0; i < items.size(); ++i) {
      if (!literal_equals(table, items[i], literal.items[i], rank)) return false;
    }
    return true;
  }
  if (literal.tag != value.tag) return false;
  switch (literal.tag) {
    case Tag::kNoneType:
      return true;
    case Tag::kBool:
      return value.payload == static_cast<uint32_t>(literal.integer);
    case Tag::kString:
    case Tag::kDtype:
    case Tag::kDevice:
    case Tag::kConst:
      return table.string(value.payload) == literal.text;
    default:
      return false;
  }
}

std::string format_literal(const Literal& literal) {
  if (literal.last_dim) return "the last dim";
  switch (literal.tag) {
    case Tag::kNoneType:
      return "None";
    case Tag::kBool:
      return literal.integer != 0 ? "True" : "False";
    case Tag::kInt:
      return std::to_string(literal.integer);
    case Tag::kFloat:
      return format_float(literal.number);
    case Tag::kString:
      return "'" + literal.text + "'";
    case Tag::kList:
    case Tag::kTuple: {
      std::string text = "[";
      for (const Literal& item : literal.items) {
        if (text.size() > 1) text += ", ";
        text += format_literal(item);
      }
      return text + "]";
    }
    default:
      return literal.text;
  }
}

void check_pattern(const Pattern& pattern) {
  const auto fail = [&](const std::string& what) {
    throw UserError("pattern '" + pattern.rule + "' " + what);
  };
  if (pattern.operations.empty() || !pattern.operations[0].forms.empty()) {
    fail("does not start at an all_reduce");
  }
  if (pattern.operations.size() < 2) fail("has no operation after its all_reduce");
  if (pattern.parameters.size() != pattern.parameter_names.size()) {
    fail("has parameters without names");
  }
  std::vector<bool> stream(pattern.operations.size(), false);
  stream[0] = true;
  for (uint32_t i = 1; i < pattern.operations.size(); ++i) {
    const Operation& operation = pattern.operations[i];
    if (operation.forms.empty()) fail("has an operation without an operator");
    for (const Form& form : operation.forms) {
      if (form.where.size() != operation.operands.size()) fail("has a form of another arity");
    }
    if (operation.commutative && operation.operands.size() < 2) {
      fail("has a commutative operation with less than two operands");
    }
    for (const Operand& operand : operation.operands) {
      if (operand.kind == OperandKind::kOperation) {
        if (operand.index >= i) fail("uses a result before it is made");
        stream[i] = stream[i] || stream[operand.index];
      }
      if (operand.kind == OperandKind::kParameter && operand.index >= pattern.parameters.size()) {
        fail("uses a parameter that it does not have");
      }
      if (operand.kind == OperandKind::kLiteral && operand.literals.empty()) {
        fail("has a literal without a value");
      }
    }
  }
  bool any = false;
  for (size_t i = 1; i < stream.size(); ++i) any = any || stream[i];
  if (!any) fail("never reads its all_reduce");
}

}  // namespace spfast
