// What the words of spfast.patterns.model mean here; a UserError where they mean nothing.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "pattern/pattern.h"

namespace spfast {

// A literal without its items.
[[nodiscard]] Literal make_literal(const std::string& tag, pybind11::handle value);
[[nodiscard]] OperandKind operand_kind(const std::string& name);
[[nodiscard]] Role role(const std::string& name);

}  // namespace spfast
