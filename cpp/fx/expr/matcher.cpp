#include "fx/expr/matcher.h"

#include <algorithm>

#include "fx/expr/torch_calls.h"

namespace spfast::expr {

using fx::Field;

namespace {

// A float that is not a number is not even equal to itself.
bool is_surely_itself(PyObject* a, PyObject* b) { return a == b && !PyFloat_Check(a); }

bool holds(PyObject* a, int comparison, PyObject* b) {
  const auto result = py::reinterpret_steal<py::object>(PyObject_RichCompare(a, b, comparison));
  if (!result) throw py::error_already_set();
  const int truth = PyObject_IsTrue(result.ptr());
  if (truth < 0) throw py::error_already_set();
  return truth != 0;
}

// !(a != b), which Python lets a type define apart from ==.
bool not_unequal(PyObject* a, PyObject* b) { return is_surely_itself(a, b) || !holds(a, Py_NE, b); }

bool contains(const std::vector<int32_t>& items, int32_t item) {
  return std::find(items.begin(), items.end(), item) != items.end();
}

bool is_number_or_text(PyObject* value) {
  return value == Py_None || PyLong_Check(value) || PyFloat_Check(value) || PyUnicode_Check(value);
}

}  // namespace

bool equal(PyObject* a, PyObject* b) { return is_surely_itself(a, b) || holds(a, Py_EQ, b); }

Outcome Matcher::run(py::handle node) {
  found_ = {};
  kept_.clear();
  Context context{&program_.outputs(), std::vector<PyObject*>(program_.size()), {}};
  const Outcome outcome = match(program_.root(), node.ptr(), context);
  if (outcome == Outcome::kYes) {
    for (PyObject* value : context.bound) {
      found_.bound.push_back(py::reinterpret_borrow<py::object>(value));
    }
  }
  return outcome;
}

Outcome Matcher::match(int32_t index, PyObject* value, Context& context) {
  PyObject*& bound = context.bound[static_cast<size_t>(index)];
  if (bound != nullptr) return equal(bound, value) ? Outcome::kYes : Outcome::kNo;
  const Outcome outcome = match_step(index, value, context);
  if (outcome == Outcome::kYes) {
    context.bound[static_cast<size_t>(index)] = value;
  } else if (outcome == Outcome::kNo) {
    context.bound[static_cast<size_t>(index)] = Py_None;
  }
  return outcome;
}

Outcome Matcher::match_step(int32_t index, PyObject* value, Context& context) {
  const Step& step = program_.step(index);
  switch (step.kind) {
    case Kind::kArg:
      found_.args.push_back(py::reinterpret_borrow<py::object>(value));
      return Outcome::kYes;
    case Kind::kIgnored:
      return Outcome::kYes;
    case Kind::kExclusive:
      for (PyObject* other : context.exclusive) {
        if (equal(other, value)) return Outcome::kNo;
      }
      context.exclusive.push_back(value);
      [[fallthrough]];
    case Kind::kKeyword:
      found_.kwargs.emplace_back(step.name, py::reinterpret_borrow<py::object>(value));
      return Outcome::kYes;
    case Kind::kCall:
      return match_call(index, value, context);
    case Kind::kVarArgs:
      return match_varargs(index, value, context);
    case Kind::kList:
      return match_list(step, value, context);
    case Kind::kOutputs:
      return match_outputs(step, value, context);
    case Kind::kRepeated:
      return match_repeated(index, value, context);
    case Kind::kDims:
      return are_dims(step, value) ? Outcome::kYes : Outcome::kNo;
    case Kind::kGetAttr:
      return match_get_attr(index, value, context);
  }
  return Outcome::kUnknown;
}

bool Matcher::has_target(const Step& step, PyObject* value) const {
  if (!access_.is_node(value)) return false;
  const py::object op = access_.read(value, Field::kOp);
  if (op.ptr() != step.op.ptr() && !equal(op.ptr(), step.op.ptr())) return false;
  const py::object target = target_of(access_, value, op);
  for (const py::object& wanted : step.targets) {
    if (target.ptr() == wanted.ptr()) return true;
  }
  if (is_equal_to_itself_alone(target.ptr())) return false;
  const int found = PySet_Contains(step.target_set.ptr(), target.ptr());
  if (found < 0) throw py::error_already_set();
  return found != 0;
}

bool Matcher::has_users(int32_t index, PyObject* node, const Context& context) const {
  const Step& step = program_.step(index);
  if (step.users == kAnyUsers || contains(*context.outputs, index)) return true;
  const py::object users = access_.read(node, Field::kUsers);
  return PyObject_Size(users.ptr()) == step.users;
}

Outcome Matcher::match_call(int32_t index, PyObject* node, Context& context) {
  const Step& step = program_.step(index);
  if (!has_target(step, node)) return Outcome::kNo;
  const py::object args = access_.read(node, Field::kArgs);
  if (PyObject_Size(args.ptr()) != static_cast<Py_ssize_t>(step.positional)) return Outcome::kNo;
  if (!has_users(index, node, context)) return Outcome::kNo;
  std::vector<PyObject*> leaves;
  leaves.reserve(step.items.size());
  const Outcome shape = flatten(step, node, leaves);
  if (shape != Outcome::kYes) return shape;
  if (step.undeclared && has_undeclared(step, node)) return Outcome::kNo;
  const Outcome outcome = match_items(step, context, leaves);
  if (outcome != Outcome::kYes) return outcome;
  if (step.meta && !has_meta(access_, node, step.meta)) return Outcome::kNo;
  found_.nodes.push_back(py::reinterpret_borrow<py::object>(node));
  found_.targets.emplace_back(index, access_.read(node, Field::kTarget));
  return Outcome::kYes;
}

Outcome Matcher::match_items(const Step& step, Context& context,
                             const std::vector<PyObject*>& leaves) {
  const Mark start = mark();
  for (size_t i = 0; i < step.items.size(); ++i) {
    const Item& item = step.items[i];
    if (item.step >= 0) {
      const Mark child = mark();
      const Outcome outcome = match(item.step, leaves[i], context);
      if (outcome != Outcome::kYes) return outcome;
      if (!names_agree(start, child)) return Outcome::kAbort;
    } else if (access_.is_node(leaves[i]) || !not_unequal(leaves[i], item.literal.ptr())) {
      return Outcome::kNo;
    }
  }
  return Outcome::kYes;
}

Outcome Matcher::match_list(const Step& step, PyObject* value, const Context& context) {
  if (!PyList_Check(value) && !PyTuple_Check(value)) return Outcome::kNo;
  // Only what several users may reach is carried from one item to the next.
  const auto carried = [this](std::vector<PyObject*> bound) {
    for (size_t i = 0; i < bound.size(); ++i) {
      const bool keep = program_.step(static_cast<int32_t>(i)).multiple_users();
      if (!keep || bound[i] == Py_None) bound[i] = nullptr;
    }
    return bound;
  };
  const Mark start = mark();
  std::vector<PyObject*> bound = carried(context.bound);
  bool matched = false;
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(value); ++i) {
    PyObject* item = PySequence_Fast_GET_ITEM(value, i);
    if (!access_.is_node(item)) return Outcome::kUnknown;  // torch raises
    Context inner{context.outputs, bound, {}};
    const Mark child = mark();
    const Outcome outcome = match(step.inner, item, inner);
    bound = carried(std::move(inner.bound));
    if (outcome == Outcome::kAbort || outcome == Outcome::kUnknown) return outcome;
    if (outcome == Outcome::kNo) {
      if (!step.partial) return Outcome::kNo;
      rewind(child);
      continue;
    }
    matched = true;
    bundle(child);
    if (!names_agree(start, child)) return Outcome::kAbort;
  }
  if (!matched) return Outcome::kNo;
  bundle(start);
  return Outcome::kYes;
}

Outcome Matcher::match_outputs(const Step& step, PyObject* node, Context& context) {
  const Mark start = mark();
  const Outcome first = match(step.outputs.front(), node, context);
  if (first != Outcome::kYes) return first;
  for (size_t i = 1; i < step.outputs.size(); ++i) {
    const int32_t output = step.outputs[i];
    if (output < 0) continue;
    const std::vector<PyObject*> prior = context.bound;
    const Mark child = mark();
    Outcome outcome = Outcome::kNo;
    std::vector<PyObject*> searched;
    visit_anchors(output, context, searched, [&](PyObject* candidate) {
      outcome = match(output, candidate, context);
      if (outcome != Outcome::kNo) return true;
      context.bound = prior;
      rewind(child);
      return false;
    });
    if (outcome != Outcome::kYes) return outcome;
    if (!names_agree(start, child)) return Outcome::kAbort;
  }
  return Outcome::kYes;
}

Outcome Matcher::match_repeated(int32_t index, PyObject* node, Context& context) {
  const int32_t inner = program_.step(index).inner;
  const Mark start = mark();
  const Outcome first = match(inner, node, context);
  if (first != Outcome::kYes) return first;
  context.bound[static_cast<size_t>(inner)] = nullptr;
  const std::vector<int32_t> outputs{index};
  std::vector<PyObject*> searched{node};
  Outcome outcome = Outcome::kYes;
  visit_anchors(inner, context, searched, [&](PyObject* candidate) {
    Context fresh{&outputs, std::vector<PyObject*>(program_.size()), {}};
    const Mark child = mark();
    outcome = match(inner, candidate, fresh);
    if (outcome == Outcome::kYes && !names_agree(start, child)) outcome = Outcome::kAbort;
    return outcome != Outcome::kYes;
  });
  return outcome;
}

bool Matcher::visit_anchors(int32_t index, const Context& context, std::vector<PyObject*>& searched,
                            const Anchors& visit) const {
  PyObject* bound = context.bound[static_cast<size_t>(index)];
  if (bound != nullptr) return visit(bound);
  const Step& step = program_.step(index);
  if (step.kind != Kind::kCall) return false;
  const auto was_searched = [&searched](PyObject* node) {
    return std::find(searched.begin(), searched.end(), node) != searched.end();
  };
  for (const Item& item : step.items) {
    if (item.step < 0) continue;
    const bool stopped = visit_anchors(item.step, context, searched, [&](PyObject* other) {
      if (!access_.is_node(other)) return false;
      const py::dict users = access_.read(other, Field::kUsers);
      for (const auto& [user, unused] : users) {
        if (was_searched(user.ptr()) || !has_target(step, user.ptr())) continue;
        if (visit(user.ptr())) return true;
        searched.push_back(user.ptr());
      }
      return false;
    });
    if (stopped) return true;
  }
  return false;
}

Outcome Matcher::flatten(const Step& step, PyObject* node, std::vector<PyObject*>& leaves) {
  py::object args = access_.read(node, Field::kArgs);
  py::object kwargs = access_.read(node, Field::kKwargs);
  if (!PyTuple_Check(args.ptr()) || !PyDict_Check(kwargs.ptr())) return Outcome::kUnknown;
  if (PyDict_Size(kwargs.ptr()) < static_cast<Py_ssize_t>(step.keys.size())) {
    if (PyCallable_Check(access_.read(node, Field::kTarget).ptr()) == 0) return Outcome::kUnknown;
    if (!normalise(access_, node, args, kwargs)) return Outcome::kNo;
    if (!PyTuple_Check(args.ptr()) || !PyDict_Check(kwargs.ptr())) return Outcome::kUnknown;
    const bool fits = PyTuple_Size(args.ptr()) == static_cast<Py_ssize_t>(step.positional) &&
                      PyDict_Size(kwargs.ptr()) >= static_cast<Py_ssize_t>(step.keys.size());
    if (!fits) return Outcome::kNo;
    keep(args);
    keep(kwargs);
  }
  size_t nest = 0;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(args.ptr()); ++i) {
    const Outcome outcome =
        flatten_value(step.nests, nest, PyTuple_GET_ITEM(args.ptr(), i), leaves);
    if (outcome != Outcome::kYes) return outcome;
  }
  if (step.keys.empty()) return Outcome::kYes;
  // The keywords that the pattern names, in the node's order, must be in the pattern's order.
  size_t next = 0;
  PyObject* key = nullptr;
  PyObject* value = nullptr;
  Py_ssize_t position = 0;
  while (PyDict_Next(kwargs.ptr(), &position, &key, &value) != 0) {
    if (next < step.keys.size() && equal(key, step.keys[next].ptr())) {
      ++next;
      const Outcome outcome = flatten_value(step.nests, nest, value, leaves);
      if (outcome != Outcome::kYes) return outcome;
      continue;
    }
    for (const py::object& wanted : step.keys) {
      if (equal(key, wanted.ptr())) return Outcome::kNo;
    }
  }
  return next == step.keys.size() ? Outcome::kYes : Outcome::kNo;
}

Outcome Matcher::flatten_value(const std::vector<Nest>& nests, size_t& next, PyObject* value,
                               std::vector<PyObject*>& leaves) const {
  if (nests.empty()) {  // no argument of the pattern nests: each is a leaf, whatever it is
    leaves.push_back(value);
    return Outcome::kYes;
  }
  const Nest& nest = nests[next++];
  const Container container = container_of(value);
  if (container == Container::kOther) {
    // Numbers, text, nodes and the like; a type that torch might take apart is torch's to judge.
    const bool leaf = is_number_or_text(value) || access_.is_node(value) || is_leaf(value);
    if (!leaf) return Outcome::kUnknown;
    if (nest.kind != Nest::Kind::kLeaf) return Outcome::kNo;
    leaves.push_back(value);
    return Outcome::kYes;
  }
  if (container == Container::kSequence) {
    const Py_ssize_t size = PySequence_Fast_GET_SIZE(value);
    if (nest.kind != Nest::Kind::kSequence || size != static_cast<Py_ssize_t>(nest.size)) {
      return Outcome::kNo;
    }
    for (Py_ssize_t i = 0; i < size; ++i) {
      const Outcome outcome =
          flatten_value(nests, next, PySequence_Fast_GET_ITEM(value, i), leaves);
      if (outcome != Outcome::kYes) return outcome;
    }
    return Outcome::kYes;
  }
  if (nest.kind != Nest::Kind::kMapping ||
      PyDict_Size(value) != static_cast<Py_ssize_t>(nest.keys.size())) {
    return Outcome::kNo;
  }
  PyObject* key = nullptr;
  PyObject* item = nullptr;
  Py_ssize_t position = 0;
  for (size_t i = 0; PyDict_Next(value, &position, &key, &item) != 0; ++i) {
    if (!equal(key, nest.keys[i].ptr())) return Outcome::kNo;
    const Outcome outcome = flatten_value(nests, next, item, leaves);
    if (outcome != Outcome::kYes) return outcome;
  }
  return Outcome::kYes;
}

Matcher::Mark Matcher::mark() const {
  return {found_.args.size(), found_.kwargs.size(), found_.nodes.size(), found_.targets.size()};
}

void Matcher::rewind(const Mark& mark) {
  found_.args.resize(mark.args);
  found_.kwargs.resize(mark.kwargs);
  found_.nodes.resize(mark.nodes);
  found_.targets.resize(mark.targets);
}

bool Matcher::names_agree(const Mark& parent, const Mark& child) const {
  const auto& kwargs = found_.kwargs;
  // The last value of a name is the one that counts on either side.
  const auto last = [&kwargs](size_t from, size_t to, PyObject* name) -> PyObject* {
    for (size_t i = to; i > from; --i) {
      if (equal(kwargs[i - 1].first.ptr(), name)) return kwargs[i - 1].second.ptr();
    }
    return nullptr;
  };
  for (size_t i = child.kwargs; i < kwargs.size(); ++i) {
    PyObject* name = kwargs[i].first.ptr();
    PyObject* earlier = last(parent.kwargs, child.kwargs, name);
    if (earlier == nullptr) continue;
    if (!not_unequal(earlier, last(child.kwargs, kwargs.size(), name))) return false;
  }
  return true;
}

void Matcher::bundle(const Mark& mark) {
  if (found_.args.size() == mark.args) return;
  py::tuple packed(found_.args.size() - mark.args);
  for (size_t i = mark.args; i < found_.args.size(); ++i) packed[i - mark.args] = found_.args[i];
  found_.args.resize(mark.args);
  found_.args.push_back(std::move(packed));
}

PyObject* Matcher::keep(py::object value) {
  kept_.push_back(std::move(value));
  return kept_.back().ptr();
}

}  // namespace spfast::expr
