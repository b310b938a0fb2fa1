// pattern/: a pattern as data, and its compilation. Depends on base/ and table/.
//
// A pattern is a small graph that starts at an anchor: the value that an all_reduce yields. Each
// operation lists its operands; an operand is the result of another operation, a parameter (bound
// at its first use, compared at the next), a literal, or ignored. An operation has one form for
// each operator that may stand for it. A form says where in that operator's arguments each operand
// is found. So one pattern covers add.Tensor and add.Scalar, or both versions of
// auto_functionalized.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/shared_list.h"
#include "table/argument.h"
#include "table/node_table.h"

namespace spfast {

// A constant of a pattern. Numbers compare by value (2 equals 2.0, but True equals only True), and
// a list equals a tuple of the same items.
struct Literal {
  Tag tag = Tag::kNoneType;
  // The last dim of the tensor that is reduced, written [-1] or as its positive number.
  bool last_dim = false;
  int64_t integer = 0;
  double number = 0.0;
  std::string text;  // string, dtype, device, const
  std::vector<Literal> items;
  friend bool operator==(const Literal&, const Literal&) = default;
};

// Where an operand stands: a position, or a keyword, or either; then an item of a list there.
struct Location {
  int32_t position = -1;
  std::string keyword;
  int32_t item = -1;
  friend bool operator==(const Location&, const Location&) = default;
};

// An argument that the pattern does not name. It must be absent, or equal to this value; if it is
// required, it must be present.
struct Fixed {
  Location where;
  Literal value;
  bool required = false;
  friend bool operator==(const Fixed&, const Fixed&) = default;
};

struct Form {
  TargetId target = kNone;
  std::vector<Location> where;  // one for each operand of the operation
  std::vector<Fixed> fixed;
  friend bool operator==(const Form&, const Form&) = default;
};

enum class OperandKind : uint8_t { kOperation, kParameter, kLiteral, kIgnored };

struct Operand {
  OperandKind kind = OperandKind::kIgnored;
  uint32_t index = 0;            // of the operation or parameter
  SharedList<Literal> literals;  // any of these
  friend bool operator==(const Operand&, const Operand&) = default;
};

struct Operation {
  SharedList<Form> forms;  // empty only for operation 0, the anchor
  std::vector<Operand> operands;
  bool commutative = false;  // the first two operands may stand in either order
};

// What a parameter is to the planner.
enum class Role : uint8_t {
  kReplicated,  // the same for every token: a weight, an epsilon, a scale
  kRows,        // one row a token, like a residual
  kBuffer,      // an empty tensor that the operation fills
};

struct Pattern {
  std::string rule;
  int32_t priority = 0;
  std::vector<Operation> operations;  // in an order in which operands come first
  std::vector<Role> parameters;
  std::vector<std::string> parameter_names;
};

[[nodiscard]] bool literal_equals(const NodeTable& table, Argument value, const Literal& literal,
                                  uint32_t rank);
[[nodiscard]] std::string format_literal(const Literal& literal);
// Raises UserError when the pattern is not well formed.
void check_pattern(const Pattern& pattern);

}  // namespace spfast
