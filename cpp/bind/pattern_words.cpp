#include "bind/pattern_words.h"

#include <utility>

#include "base/check.h"

namespace spfast {

Literal make_literal(const std::string& name, pybind11::handle value) {
  static constexpr std::pair<const char*, Tag> kTags[] = {
      {"none", Tag::kNoneType}, {"bool", Tag::kBool},     {"int", Tag::kInt},
      {"float", Tag::kFloat},   {"string", Tag::kString}, {"dtype", Tag::kDtype},
      {"device", Tag::kDevice}, {"const", Tag::kConst},   {"list", Tag::kList},
      {"last_dim", Tag::kInt},
  };
  Literal literal;
  bool known = false;
  for (const auto& [text, tag] : kTags) {
    if (name != text) continue;
    literal.tag = tag;
    known = true;
  }
  if (!known) throw UserError("a literal has the unknown tag '" + name + "'");
  literal.last_dim = name == "last_dim";
  switch (literal.tag) {
    case Tag::kBool:
      literal.integer = value.cast<bool>() ? 1 : 0;
      break;
    case Tag::kInt:
      if (!literal.last_dim) {
        literal.integer = value.cast<int64_t>();
        literal.number = static_cast<double>(literal.integer);
      }
      break;
    case Tag::kFloat:
      literal.number = value.cast<double>();
      break;
    case Tag::kString:
    case Tag::kDtype:
    case Tag::kDevice:
    case Tag::kConst:
      literal.text = value.cast<std::string>();
      break;
    default:
      break;
  }
  return literal;
}

OperandKind operand_kind(const std::string& name) {
  if (name == "operation") return OperandKind::kOperation;
  if (name == "parameter") return OperandKind::kParameter;
  if (name == "literal") return OperandKind::kLiteral;
  if (name == "ignored") return OperandKind::kIgnored;
  throw UserError("an operand has the unknown kind '" + name + "'");
}

Role role(const std::string& name) {
  if (name == "replicated") return Role::kReplicated;
  if (name == "rows") return Role::kRows;
  if (name == "buffer") return Role::kBuffer;
  throw UserError("a parameter has the unknown role '" + name + "'");
}

}  // namespace spfast
