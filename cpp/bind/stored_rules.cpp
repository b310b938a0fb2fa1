#include "bind/stored_rules.h"

#include <string>

#include "base/check.h"
#include "bind/pattern_words.h"
#include "table/targets.h"

namespace spfast {
namespace {

// One row of a table: the fields of one object, in the order of its class in spfast.patterns.model.
class Row {
 public:
  explicit Row(py::handle row) : row_(row) {
    if (PyList_Check(row.ptr()) == 0) throw UserError("a stored pattern is no list");
  }

  [[nodiscard]] py::handle operator[](Py_ssize_t i) const {
    if (i >= PyList_GET_SIZE(row_.ptr())) throw UserError("a stored pattern lacks a field");
    return PyList_GET_ITEM(row_.ptr(), i);
  }
  template <class T>
  [[nodiscard]] T get(Py_ssize_t i) const {
    return (*this)[i].cast<T>();
  }

 private:
  py::handle row_;
};

template <class T>
const T& at(const std::vector<T>& items, py::handle index) {
  const auto i = index.cast<size_t>();
  if (i >= items.size()) throw UserError("a stored pattern refers to a row that there is not");
  return items[i];
}

Literal read_literal(const Row& row, const std::vector<Literal>& known) {
  Literal literal = make_literal(row.get<std::string>(0), row[1]);
  for (const py::handle item : row[2]) literal.items.push_back(at(known, item));
  return literal;
}

Form read_form(const Row& row, const std::vector<Location>& locations,
               const std::vector<Fixed>& fixed) {
  Form form;
  form.target = intern_target(row.get<std::string>(0));
  for (const py::handle where : row[1]) form.where.push_back(at(locations, where));
  for (const py::handle one : row[2]) form.fixed.push_back(at(fixed, one));
  return form;
}

Operand read_operand(const Row& row, const std::vector<Literal>& literals) {
  Operand operand;
  operand.kind = operand_kind(row.get<std::string>(0));
  operand.index = row.get<uint32_t>(1);
  for (const py::handle one : row[2]) operand.literals.push_back(at(literals, one));
  return operand;
}

}  // namespace

StoredPatterns::StoredPatterns(const py::dict& tables) {
  const auto each = [&](const char* name, const auto& read) {
    for (const py::handle row : tables[name]) read(Row(row));
  };
  std::vector<Literal> literals;
  std::vector<Location> locations;
  std::vector<Fixed> fixed;
  std::vector<Form> forms;
  std::vector<Operand> operands;
  each("Literal", [&](const Row& row) { literals.push_back(read_literal(row, literals)); });
  each("Location", [&](const Row& row) {
    locations.push_back({row.get<int32_t>(0), row.get<std::string>(1), row.get<int32_t>(2)});
  });
  each("Fixed", [&](const Row& row) {
    fixed.push_back({at(locations, row[0]), at(literals, row[1]), row.get<bool>(2)});
  });
  each("Form", [&](const Row& row) { forms.push_back(read_form(row, locations, fixed)); });
  each("Operand", [&](const Row& row) { operands.push_back(read_operand(row, literals)); });
  each("Operation", [&](const Row& row) {
    Operation& operation = operations_.emplace_back();
    for (const py::handle form : row[0]) operation.forms.push_back(at(forms, form));
    for (const py::handle operand : row[1]) operation.operands.push_back(at(operands, operand));
    operation.commutative = row.get<bool>(2);
  });
  each("Parameter", [&](const Row& row) {
    parameters_.emplace_back(row.get<std::string>(0), role(row.get<std::string>(1)));
  });
  for (const py::handle row : tables["Pattern"]) patterns_.push_back(row);
}

Pattern StoredPatterns::pattern(py::handle index) const {
  const Row row(at(patterns_, index));
  Pattern pattern;
  pattern.rule = row.get<std::string>(0);
  pattern.priority = row.get<int32_t>(1);
  for (const py::handle operation : row[2]) {
    pattern.operations.push_back(at(operations_, operation));
  }
  for (const py::handle parameter : row[3]) {
    const auto& [name, role] = at(parameters_, parameter);
    pattern.parameters.push_back(role);
    pattern.parameter_names.push_back(name);
  }
  return pattern;
}

}  // namespace spfast
