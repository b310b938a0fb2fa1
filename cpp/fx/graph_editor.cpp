#include "fx/graph_editor.h"

#include <array>
#include <utility>
#include <vector>

#include "base/check.h"

namespace spfast::fx {
namespace {

void done(int result) {
  if (result < 0) throw py::error_already_set();
}

PyObject* nothing(PyObject* /*self*/, PyObject* /*node*/) { Py_RETURN_NONE; }
PyMethodDef nothing_def = {"nothing", nothing, METH_O, nullptr};

// Counts down in tests; negative otherwise.
int64_t edits_left = -1;

void one_edit() {
  if (edits_left >= 0 && edits_left-- == 0) throw UserError("an edit fails, for a test");
}

// The methods of FX that the native edits stand for.
struct Methods {
  struct Watched {
    PyTypeObject* owner;
    py::object name;
    py::object method;  // as it was at the trial
  };

  Methods() {
    const py::module_ graph = py::module_::import("torch.fx.graph");
    const py::module_ node = py::module_::import("torch.fx.node");
    graph_type = graph.attr("Graph");
    node_type = node.attr("Node");
    names_type = py::getattr(graph, "_Namespace", py::none());
    lookup_type = py::getattr(graph, "_FindNodesLookupTable", py::none());
    illegal_names = py::getattr(graph, "_illegal_names", py::none());
    map_arg = py::getattr(py::module_::import("torch").attr("_C"), "_fx_map_arg", py::none());
    base_type = node_type.attr("__base__");
    for (const auto& [owner, name] : {std::pair{&graph_type, "create_node"},
                                      {&graph_type, "erase_node"},
                                      {&node_type, "__init__"},
                                      {&node_type, "__setattr__"},
                                      {&node_type, "__hash__"},
                                      {&node_type, "replace_input_with"},
                                      {&node_type, "_replace_input_with"},
                                      {&node_type, "prepend"},
                                      {&node_type, "_prepend"},
                                      {&node_type, "_update_args_kwargs"},
                                      {&node_type, "_remove_from_list"},
                                      {&names_type, "create_name"},
                                      {&names_type, "associate_name_with_obj"},
                                      {&lookup_type, "insert"},
                                      {&lookup_type, "remove"}}) {
      PyObject* found = nullptr;
      if (!owner->is_none()) found = lookup(*owner, name);
      if (found == nullptr) {
        known = false;
        return;
      }
      watched.push_back({reinterpret_cast<PyTypeObject*>(owner->ptr()), py::str(name),
                         py::reinterpret_borrow<py::object>(found)});
    }
    prepend = method("_prepend");
    update = method("_update_args_kwargs");
    replace = method("_replace_input_with");
    remove = method("_remove_from_list");
    known = PyDict_Check(illegal_names.ptr()) != 0 && !map_arg.is_none() &&
            !base_type.is(py::handle(reinterpret_cast<PyObject*>(&PyBaseObject_Type)));
    forget = stolen(PyCFunction_New(&nothing_def, nullptr));
  }

  // Once a process, and kept: Python may be gone before static destructors run.
  static Methods& instance() {
    PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<Methods*> storage;
    return *storage.call_once_and_store_result([] { return new Methods; }).get_stored();
  }

  [[nodiscard]] static PyObject* lookup(py::handle type, const char* name) {
    return _PyType_Lookup(reinterpret_cast<PyTypeObject*>(type.ptr()), py::str(name).ptr());
  }
  [[nodiscard]] py::object method(const char* name) const {
    return py::reinterpret_borrow<py::object>(lookup(node_type, name));
  }
  [[nodiscard]] bool unchanged() const {
    for (const Watched& one : watched) {
      if (_PyType_Lookup(one.owner, one.name.ptr()) != one.method.ptr()) return false;
    }
    return true;
  }
  [[nodiscard]] bool trusted() {
    if (!known || !unchanged()) return false;
    if (!tried) {
      tried = true;  // the trial itself asks for no trial
      holds = py::bool_(py::module_::import("spfast.fxgraph.trial").attr("holds")());
    }
    return holds;
  }

  py::object graph_type, node_type, base_type, names_type, lookup_type, illegal_names, map_arg;
  py::object prepend, update, replace, remove, forget;
  std::vector<Watched> watched;
  bool known = true;
  bool tried = false;
  bool holds = false;
};

// Whether this graph is one of FX's plain ones, which nobody watches.
bool is_plain(py::handle graph, const Methods& fx) {
  if (!py::type::handle_of(graph).is(fx.graph_type)) return false;
  const py::dict own = graph.attr("__dict__");
  if (own.contains("create_node") || own.contains("erase_node")) return false;
  const py::object module = py::getattr(graph, "owning_module", py::none());
  if (!module.is_none()) {
    for (const char* hooks : {"_create_node_hooks", "_erase_node_hooks", "_replace_hooks"}) {
      if (py::bool_(py::getattr(module, hooks, py::none()))) return false;
    }
  }
  return py::type::handle_of(graph.attr("_graph_namespace")).is(fx.names_type) &&
         py::type::handle_of(graph.attr("_find_nodes_lookup_table")).is(fx.lookup_type);
}

}  // namespace

GraphEditor::GraphEditor(py::handle graph, Way way)
    : graph_(graph),
      create_node_(graph.attr("create_node")),
      erase_node_(graph.attr("erase_node")) {
  Methods& fx = Methods::instance();
  native_ = way == Way::kNative || (way == Way::kFastest && is_plain(graph, fx) && fx.trusted());
  if (!native_) return;
  const py::object names = graph.attr("_graph_namespace");
  names_of_ = names.attr("_obj_to_name");
  used_names_ = names.attr("_used_names");
  base_counts_ = names.attr("_base_count");
  lookup_ = graph.attr("_find_nodes_lookup_table").attr("table");
}

GraphEditor::~GraphEditor() {
  if (!insert_) return;
  if (PyObject_SetAttrString(graph_.ptr(), "_insert", insert_.ptr()) != 0) {
    PyErr_WriteUnraisable(graph_.ptr());
  }
}

void GraphEditor::break_after(int64_t edits) { edits_left = edits; }

// As _Namespace.create_name makes it of a candidate that is an identifier and ends in no number.
py::str GraphEditor::name_for(const py::str& base) {
  const Methods& fx = Methods::instance();
  PyObject* known = PyDict_GetItemWithError(base_counts_.ptr(), base.ptr());
  Py_ssize_t number = known == nullptr ? 0 : PyLong_AsSsize_t(known);
  py::str name = base;
  const auto next = [&] {
    ++number;
    name = py::reinterpret_steal<py::str>(PyUnicode_FromFormat("%U_%zd", base.ptr(), number));
    if (!name) throw py::error_already_set();
  };
  if (PyDict_Contains(fx.illegal_names.ptr(), base.ptr()) == 1) next();
  while (PySet_Contains(used_names_.ptr(), name.ptr()) == 1) next();
  done(PySet_Add(used_names_.ptr(), name.ptr()));
  done(PyDict_SetItem(base_counts_.ptr(), base.ptr(), py::int_(number).ptr()));
  return name;
}

py::dict GraphEditor::calls_of(py::handle target) {
  const auto found = by_target_.find(target.ptr());
  if (found != by_target_.end()) return found->second;
  const py::tuple key = py::make_tuple("call_function", target);
  const py::object nodes = stolen(PyObject_GetItem(lookup_.ptr(), key.ptr()));
  return by_target_.emplace(target.ptr(), nodes).first->second;
}

py::object GraphEditor::create_call(py::handle target, const py::str& base, py::handle before,
                                    const py::tuple& operands, const py::dict& named) {
  one_edit();
  if (!native_) {
    py::object node = create_whole(target, base, before, py::tuple(), py::dict());
    set_operands(node, operands, named);
    return node;
  }
  const Methods& fx = Methods::instance();
  const py::str name = name_for(base);
  auto* type = reinterpret_cast<PyTypeObject*>(fx.node_type.ptr());
  auto* base_type = reinterpret_cast<PyTypeObject*>(fx.base_type.ptr());
  const py::tuple none;
  py::object node = stolen(type->tp_new(type, none.ptr(), nullptr));
  static const auto& kCall = *new py::str(interned("call_function"));
  const py::tuple args = py::make_tuple(graph_, name, kCall, target, py::none());
  done(base_type->tp_init(node.ptr(), args.ptr(), nullptr));
  set_operands(node, operands, named);
  done(PyDict_SetItem(names_of_.ptr(), node.ptr(), name.ptr()));
  PyObject* link[] = {before.ptr(), node.ptr()};
  (void)stolen(PyObject_Vectorcall(fx.prepend.ptr(), link, 2, nullptr));
  done(PyDict_SetItem(calls_of(target).ptr(), node.ptr(), Py_None));
  ++added_;
  return node;
}

py::object GraphEditor::create_whole(py::handle target, const py::str& base, py::handle before,
                                     const py::tuple& args, const py::dict& kwargs) {
  if (!before.is(last_before_)) {
    if (!insert_) insert_ = graph_.attr("_insert");
    graph_.attr("_insert") = before.attr("prepend");
    last_before_ = before;
  }
  return create_node_("call_function", target, args, kwargs, base);
}

void GraphEditor::set_operands(py::handle node, py::handle args, py::handle kwargs) const {
  if (!native_) {
    node.attr("_update_args_kwargs")(args, kwargs);
    return;
  }
  PyObject* call[] = {node.ptr(), args.ptr(), kwargs.ptr()};
  (void)stolen(PyObject_Vectorcall(Methods::instance().update.ptr(), call, 3, nullptr));
}

void GraphEditor::set_meta(py::handle node, py::handle meta) const {
  static const auto& key = *new py::str(interned("meta"));
  // FX moves a node to the end of its tables whenever one of its attributes is assigned to.
  done(PyObject_GenericSetAttr(node.ptr(), key.ptr(), meta.ptr()));
}

void GraphEditor::replace_input(py::handle user, py::handle old, py::handle now) const {
  one_edit();
  if (!native_) {
    user.attr("replace_input_with")(old, now);
    return;
  }
  PyObject* call[] = {user.ptr(), old.ptr(), now.ptr()};
  (void)stolen(PyObject_Vectorcall(Methods::instance().replace.ptr(), call, 3, nullptr));
}

void GraphEditor::erase(py::handle node) {
  one_edit();
  const NodeAccess& access = NodeAccess::instance();
  const bool is_call =
      PyUnicode_CompareWithASCIIString(access.read(node, Field::kOp).ptr(), "call_function") == 0;
  // One that is still read is refused, in FX's words.
  if (!native_ || !is_call || py::len(access.read(node, Field::kUsers)) != 0) {
    if (native_) finish();
    erase_node_(node);
    return;
  }
  const Methods& fx = Methods::instance();
  done(PyDict_DelItem(calls_of(access.read(node, Field::kTarget)).ptr(), node.ptr()));
  PyObject* self[] = {node.ptr()};
  (void)stolen(PyObject_Vectorcall(fx.remove.ptr(), self, 1, nullptr));
  static const auto& erased = *new py::str(interned("_erased"));
  done(PyObject_GenericSetAttr(node.ptr(), erased.ptr(), Py_True));
  --added_;
  const auto without_nodes = [&](Field which) {
    PyObject* call[] = {access.read(node, which).release().ptr(), fx.forget.ptr()};
    const py::object operands = py::reinterpret_steal<py::object>(call[0]);
    return stolen(PyObject_Vectorcall(fx.map_arg.ptr(), call, 2, nullptr));
  };
  set_operands(node, without_nodes(Field::kArgs), without_nodes(Field::kKwargs));
}

void GraphEditor::finish() {
  if (added_ == 0) return;
  graph_.attr("_len") = py::int_(graph_.attr("_len").cast<Py_ssize_t>() + added_);
  added_ = 0;
}

}  // namespace spfast::fx
