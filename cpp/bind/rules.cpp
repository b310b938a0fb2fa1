#include "rewrite/rules.h"

#include <unordered_map>
#include <utility>

#include "base/check.h"
#include "bind/bind.h"
#include "bind/pattern_words.h"
#include "bind/stored_rules.h"
#include "table/targets.h"

namespace spfast {
namespace {

// The Python side is spfast.patterns.model: frozen dataclasses that mirror pattern/pattern.h.

Literal read_literal(py::handle from) {
  Literal literal = make_literal(from.attr("tag").cast<std::string>(), from.attr("value"));
  for (const py::handle item : from.attr("items")) literal.items.push_back(read_literal(item));
  return literal;
}

Location read_location(py::handle from) {
  return {from.attr("position").cast<int32_t>(), from.attr("keyword").cast<std::string>(),
          from.attr("item").cast<int32_t>()};
}

Form read_form(py::handle from) {
  Form form;
  form.target = intern_target(from.attr("target").cast<std::string>());
  for (const py::handle where : from.attr("where")) form.where.push_back(read_location(where));
  for (const py::handle fixed : from.attr("fixed")) {
    form.fixed.push_back({read_location(fixed.attr("where")), read_literal(fixed.attr("literal")),
                          fixed.attr("required").cast<bool>()});
  }
  return form;
}

Operand read_operand(py::handle from) {
  Operand operand;
  operand.kind = operand_kind(from.attr("kind").cast<std::string>());
  operand.index = from.attr("index").cast<uint32_t>();
  for (const py::handle one : from.attr("literals")) operand.literals.push_back(read_literal(one));
  return operand;
}

// What several patterns share is read once. It is found by the address of the Python object, which
// is kept so that no other object gets that address.
template <class T>
class Known {
 public:
  template <class Read>
  const T& get(py::handle from, const Read& read) {
    const auto found = parts_.find(from.ptr());
    if (found != parts_.end()) return found->second.second;
    auto part = std::make_pair(py::reinterpret_borrow<py::object>(from), read(from));
    return parts_.emplace(from.ptr(), std::move(part)).first->second.second;
  }

 private:
  std::unordered_map<PyObject*, std::pair<py::object, T>> parts_;
};

class PatternReader {
 public:
  Pattern read(py::handle from) {
    Pattern pattern;
    pattern.rule = from.attr("rule").cast<std::string>();
    pattern.priority = from.attr("priority").cast<int32_t>();
    for (const py::handle one : from.attr("operations")) {
      pattern.operations.push_back(
          operations_.get(one, [&](py::handle o) { return read_operation(o); }));
    }
    for (const py::handle parameter : from.attr("parameters")) {
      pattern.parameters.push_back(role(parameter.attr("role").cast<std::string>()));
      pattern.parameter_names.push_back(parameter.attr("name").cast<std::string>());
    }
    return pattern;
  }

 private:
  Operation read_operation(py::handle from) {
    Operation operation;
    for (const py::handle form : from.attr("forms")) {
      operation.forms.push_back(forms_.get(form, read_form));
    }
    for (const py::handle operand : from.attr("operands")) {
      operation.operands.push_back(operands_.get(operand, read_operand));
    }
    operation.commutative = from.attr("commutative").cast<bool>();
    return operation;
  }

  Known<Operation> operations_;
  Known<Form> forms_;
  Known<Operand> operands_;
};

// A pattern that the registry lets through may still be more than the core can hold. The error
// names its rule.
Pattern checked_pattern(py::handle from, PatternReader& reader) {
  try {
    return reader.read(from);
  } catch (const py::cast_error&) {
    throw UserError("rule " + py::repr(from.attr("rule")).cast<std::string>() +
                    " holds a name or a number that a compiled pattern cannot hold");
  }
}

CollectiveFamily read_family(py::handle from, uint32_t id) {
  CollectiveFamily family;
  family.name = from.attr("name").cast<std::string>();
  family.match.id = id;
  family.match.all_reduce = intern_target(from.attr("all_reduce").cast<std::string>());
  const py::object wait = from.attr("wait");
  if (!wait.is_none()) family.match.wait = intern_target(wait.cast<std::string>());
  family.match.reduce_op = from.attr("reduce_op").cast<int32_t>();
  const py::object group = from.attr("group");
  family.match.group = group.is_none() ? -1 : group.cast<int32_t>();
  family.reduce_scatter = intern_target(from.attr("reduce_scatter").cast<std::string>());
  family.reduce_scatter_args = read_collective_args(from.attr("reduce_scatter_args"));
  family.all_gather = intern_target(from.attr("all_gather").cast<std::string>());
  family.all_gather_args = read_collective_args(from.attr("all_gather_args"));
  return family;
}

RowRule read_row_rule(py::handle from) {
  RowRule rule;
  rule.family = row_family(from.attr("family").cast<std::string>());
  rule.position = from.attr("position").cast<int32_t>();
  rule.default_dim = from.attr("default_dim").cast<int64_t>();
  for (const py::handle row : from.attr("rows")) {
    if (py::isinstance<py::int_>(row)) {
      rule.rows.push_back(row.cast<int32_t>());
    } else {
      rule.keywords.push_back(row.cast<std::string>());
    }
  }
  for (const py::handle buffer : from.attr("buffers")) {
    rule.buffers.push_back(buffer.cast<std::string>());
  }
  rule.groups = from.attr("groups").cast<std::string>();
  rule.block = from.attr("block").cast<int64_t>();
  for (const py::handle where : from.attr("block_if")) {
    if (py::isinstance<py::int_>(where)) {
      rule.block_if.push_back(where.cast<int32_t>());
    } else {
      rule.block_if_keywords.push_back(where.cast<std::string>());
    }
  }
  return rule;
}

// The family's other ways to write an all_reduce.
std::vector<AllReduceFamily> read_forms(py::handle from, const AllReduceFamily& plain) {
  using Form = AllReduceFamily::Form;
  static constexpr std::pair<const char*, Form> kForms[] = {
      {"in_place", Form::kInPlace},
      {"coalesced", Form::kCoalesced},
      {"coalesced_in_place", Form::kCoalesced}};
  std::vector<AllReduceFamily> forms;
  for (const auto& [name, form] : kForms) {
    const py::object target = from.attr(name);
    if (target.is_none()) continue;
    forms.push_back(plain);
    forms.back().all_reduce = intern_target(target.cast<std::string>());
    forms.back().form = form;
  }
  return forms;
}

Rules make_rules(const py::iterable& patterns, const py::iterable& families,
                 const py::iterable& rowwise, bool quantised, const py::object& stored) {
  Rules rules;
  try {
    if (stored.is_none()) {
      PatternReader reader;
      for (const py::handle pattern : patterns) {
        rules.programs.add(checked_pattern(pattern, reader));
      }
    } else {
      const StoredPatterns known(stored);
      for (const py::handle row : patterns) rules.programs.add(known.pattern(row));
    }
    for (const py::handle family : families) {
      rules.families.push_back(read_family(family, static_cast<uint32_t>(rules.families.size())));
      const AllReduceFamily& plain = rules.families.back().match;
      rules.anchors.push_back(plain);
      for (const AllReduceFamily& form : read_forms(family, plain)) rules.anchors.push_back(form);
    }
    rules.rows.set_quantised(quantised);
    for (const py::handle rule : rowwise) {
      rules.rows.add(intern_target(rule.attr("op").cast<std::string>()), read_row_rule(rule));
    }
  } catch (const UserError& error) {
    raise_error("PatternError", error.what());
  }
  return rules;
}

}  // namespace

std::vector<CollectiveArg> read_collective_args(py::handle from) {
  using Kind = CollectiveArg::Kind;
  static constexpr std::pair<const char*, Kind> kKinds[] = {{"input", Kind::kInput},
                                                            {"world_size", Kind::kWorldSize},
                                                            {"group", Kind::kGroup},
                                                            {"reduce_op", Kind::kReduceOp}};
  std::vector<CollectiveArg> args;
  for (const py::handle item : from) {
    if (py::isinstance<py::int_>(item)) {
      args.push_back({Kind::kInt, item.cast<int64_t>()});
      continue;
    }
    const auto name = item.cast<std::string>();
    const size_t before = args.size();
    for (const auto& [text, kind] : kKinds) {
      if (name == text) args.push_back({kind, 0});
    }
    if (args.size() == before)
      throw UserError("a collective has the unknown argument '" + name + "'");
  }
  return args;
}

void bind_rules(py::module_& module) {
  py::class_<Rules, std::shared_ptr<Rules>>(
      module, "Rules", "Patterns, families of collectives and row-wise operators, compiled.")
      .def(py::init(&make_rules), py::arg("patterns"), py::arg("families"),
           py::arg("rowwise") = py::tuple(), py::arg("quantised") = true,
           py::arg("stored") = py::none(),
           "With the tables of spfast.patterns.stored, patterns are given by their rows there.")
      .def("__len__", [](const Rules& rules) { return rules.programs.rules().size(); })
      .def(
          "to_string", [](const Rules& rules) { return rules.programs.to_string(); },
          "The program tree, one step a line.");
}

}  // namespace spfast
