#include "bind/rules.h"

#include "base/check.h"
#include "bind/bind.h"
#include "table/targets.h"

namespace spfast {
namespace {

// The Python side is spfast.patterns.model: frozen dataclasses that mirror pattern/pattern.h.

Literal read_literal(py::handle from) {
  static constexpr std::pair<const char*, Tag> kTags[] = {
      {"none", Tag::kNoneType}, {"bool", Tag::kBool},     {"int", Tag::kInt},
      {"float", Tag::kFloat},   {"string", Tag::kString}, {"dtype", Tag::kDtype},
      {"device", Tag::kDevice}, {"const", Tag::kConst},   {"list", Tag::kList},
      {"last_dim", Tag::kInt},
  };
  const auto name = from.attr("tag").cast<std::string>();
  Literal literal;
  bool known = false;
  for (const auto& [text, tag] : kTags) {
    if (name != text) continue;
    literal.tag = tag;
    known = true;
  }
  if (!known) throw UserError("a literal has the unknown tag '" + name + "'");
  literal.last_dim = name == "last_dim";
  const py::object value = from.attr("value");
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
  const auto kind = from.attr("kind").cast<std::string>();
  Operand operand;
  operand.index = from.attr("index").cast<uint32_t>();
  if (kind == "operation") {
    operand.kind = OperandKind::kOperation;
  } else if (kind == "parameter") {
    operand.kind = OperandKind::kParameter;
  } else if (kind == "literal") {
    operand.kind = OperandKind::kLiteral;
    for (const py::handle one : from.attr("literals")) {
      operand.literals.push_back(read_literal(one));
    }
  } else if (kind != "ignored") {
    throw UserError("an operand has the unknown kind '" + kind + "'");
  }
  return operand;
}

Role read_role(py::handle parameter) {
  const auto role = parameter.attr("role").cast<std::string>();
  if (role == "replicated") return Role::kReplicated;
  if (role == "rows") return Role::kRows;
  if (role == "buffer") return Role::kBuffer;
  throw UserError("a parameter has the unknown role '" + role + "'");
}

Pattern read_pattern(py::handle from) {
  Pattern pattern;
  pattern.rule = from.attr("rule").cast<std::string>();
  pattern.priority = from.attr("priority").cast<int32_t>();
  for (const py::handle source : from.attr("operations")) {
    Operation operation;
    for (const py::handle form : source.attr("forms")) operation.forms.push_back(read_form(form));
    for (const py::handle operand : source.attr("operands")) {
      operation.operands.push_back(read_operand(operand));
    }
    operation.commutative = source.attr("commutative").cast<bool>();
    pattern.operations.push_back(std::move(operation));
  }
  for (const py::handle parameter : from.attr("parameters")) {
    pattern.parameters.push_back(read_role(parameter));
    pattern.parameter_names.push_back(parameter.attr("name").cast<std::string>());
  }
  return pattern;
}

// What the registry lets through and the core cannot hold still names its rule.
Pattern checked_pattern(py::handle from) {
  try {
    return read_pattern(from);
  } catch (const py::cast_error&) {
    throw UserError("rule " + py::repr(from.attr("rule")).cast<std::string>() +
                    " holds a name or a number that a compiled pattern cannot hold");
  }
}

std::vector<CollectiveArg> read_args(py::handle from) {
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
  family.reduce_scatter_args = read_args(from.attr("reduce_scatter_args"));
  family.all_gather = intern_target(from.attr("all_gather").cast<std::string>());
  family.all_gather_args = read_args(from.attr("all_gather_args"));
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
                 const py::iterable& rowwise, bool quantised) {
  Rules rules;
  try {
    for (const py::handle pattern : patterns) rules.programs.add(checked_pattern(pattern));
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

void bind_rules(py::module_& module) {
  py::class_<Rules, std::shared_ptr<Rules>>(
      module, "Rules", "Patterns, families of collectives and row-wise operators, compiled.")
      .def(py::init(&make_rules), py::arg("patterns"), py::arg("families"),
           py::arg("rowwise") = py::tuple(), py::arg("quantised") = true)
      .def("__len__", [](const Rules& rules) { return rules.programs.rules().size(); })
      .def(
          "to_string", [](const Rules& rules) { return rules.programs.to_string(); },
          "The program tree, one step a line.");
}

}  // namespace spfast
