#include "fx/encode.h"

#include <algorithm>
#include <array>
#include <unordered_map>
#include <unordered_set>

#include "base/check.h"
#include "fx/node_access.h"
#include "fx/node_ids.h"
#include "fx/target_cache.h"
#include "table/targets.h"

namespace spfast::fx {
namespace {

class Encoder {
 public:
  Encoder(py::handle graph, const EncodeOptions& options)
      : graph_(graph),
        options_(options),
        access_(NodeAccess::instance()),
        ids_(py::len(graph.attr("nodes"))),
        out_(options.complete) {
    const py::module_ torch = py::module_::import("torch");
    dtype_type_ = torch.attr("dtype");
    device_type_ = torch.attr("device");
    layout_type_ = torch.attr("layout");
    memory_format_type_ = torch.attr("memory_format");
    symint_type_ = torch.attr("SymInt");
    op_overload_type_ = torch.attr("_ops").attr("OpOverload");
    // A module may do anything: an in-place activation overwrites what it reads.
    for (const py::object& call : options.pure) pure_.insert(call.ptr());
    describe_target(call_module_, target_flag::kMutates | target_flag::kFence, kWritesAnything);
  }

  EncodedGraph run() {
    const auto count = static_cast<size_t>(py::len(graph_.attr("nodes")));
    out_.table.reserve(static_cast<uint32_t>(count));
    out_.nodes.reserve(count);
    const py::object root = graph_.attr("_root");
    for (py::object node = access_.read(root, Field::kNext); !node.is(root);
         node = access_.read(node, Field::kNext)) {
      fetch_ahead(node.ptr());
      add(node);
      if (out_.nodes.size() > count) {
        throw UserError("the graph's list of nodes is longer than the graph says (" +
                        std::to_string(count) + "): it is damaged");
      }
    }
    out_.table.finish();
    out_.metas.read_all(out_.table, wanted_, out_.nodes);
    if (options_.complete) {
      out_.read_names();
      out_.table.shrink_to_fit();
    }
    return std::move(out_);
  }

 private:
  // A large graph is not in the processor's caches, and a linked list tells where the next node is
  // only once the one before is loaded. So memory ahead is prefetched: the node after the next two,
  // the operands of the one before that, and what the next node reads.
  void fetch_ahead(PyObject* node) const {
    PyObject* next = access_.peek(node, Field::kNext);
    PyObject* second = next == nullptr ? nullptr : access_.peek(next, Field::kNext);
    PyObject* third = second == nullptr ? nullptr : access_.peek(second, Field::kNext);
    if (third == nullptr) return;
    constexpr size_t kLine = 64;
    for (size_t at = 0; at < 3 * kLine; at += kLine) {
      __builtin_prefetch(reinterpret_cast<const char*>(third) + at);
    }
    __builtin_prefetch(access_.peek(second, Field::kArgs));
    __builtin_prefetch(access_.peek(second, Field::kKwargs));
    ids_.prefetch(next);
    PyObject* args = access_.peek(next, Field::kArgs);
    if (args == nullptr || PyTuple_Check(args) == 0) return;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(args); ++i) {
      __builtin_prefetch(PyTuple_GET_ITEM(args, i));
      ids_.prefetch(PyTuple_GET_ITEM(args, i));
    }
  }

  // The field, borrowed where it is a load, else kept until the next node.
  py::handle field(const py::object& node, Field which) {
    if (PyObject* value = access_.peek(node.ptr(), which)) return value;
    return fields_[static_cast<size_t>(which)] = access_.read(node, which);
  }

  void add(const py::object& node) {
    const py::handle args = field(node, Field::kArgs);
    const py::handle kwargs = field(node, Field::kKwargs);
    const py::handle target = field(node, Field::kTarget);
    const Op op = op_of(field(node, Field::kOp));
    TargetEntry entry = target_of(op, target, args);
    NodeTable& table = out_.table;
    if (!pure_.empty() && pure_.contains(node.ptr())) {
      // Its result is a value of its own. An earlier write to that memory is no write to the
      // result.
      entry.flags &= static_cast<uint8_t>(~(target_flag::kMutates | target_flag::kAliases));
      out_.pure.push_back(table.size());
    }
    const NodeId id = table.add_node(op, entry.id, entry.flags);
    const bool named = options_.complete &&
                       (op == Op::kPlaceholder || op == Op::kGetAttr || op == Op::kCallModule);
    const auto n_args = static_cast<uint32_t>(PyTuple_GET_SIZE(args.ptr()));
    const auto n_kwargs = static_cast<uint32_t>(PyDict_GET_SIZE(kwargs.ptr()));
    table.begin_operands(n_args + (named ? 1 : 0), n_kwargs);
    uint32_t slot = table.operand_begin(id);
    node_ = node;
    if (named) {
      table.set_value(slot++, table.make_string(Tag::kString, target.cast<std::string>()));
    }
    for (uint32_t i = 0; i < n_args; ++i) put(slot++, PyTuple_GET_ITEM(args.ptr(), i));
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    Py_ssize_t at = 0;
    while (PyDict_Next(kwargs.ptr(), &at, &key, &value) != 0) {
      put(slot++, key);
      put(slot++, value);
    }
    drain();
    ids_.insert(node.ptr(), id);
    out_.nodes.push_back(node);
    const auto wanted = options_.meta_of;
    if (options_.complete || std::find(wanted.begin(), wanted.end(), entry.id) != wanted.end()) {
      wanted_.push_back(id);
    } else if (op == Op::kPlaceholder) {
      out_.metas.read_number(table, id, node);
    }
  }

  Op op_of(py::handle op) {
    for (const auto& [known, code] : ops_) {
      if (known == op.ptr()) return code;
    }
    static constexpr std::pair<const char*, Op> kOps[] = {
        {"placeholder", Op::kPlaceholder},    {"get_attr", Op::kGetAttr},
        {"call_function", Op::kCallFunction}, {"call_module", Op::kCallModule},
        {"call_method", Op::kCallMethod},     {"output", Op::kOutput}};
    for (const auto& [name, code] : kOps) {
      if (PyUnicode_CompareWithASCIIString(op.ptr(), name) != 0) continue;
      // Graphs usually share one string for each kind of node. If each node has its own, nothing
      // piles up here.
      if (ops_.size() < 2 * std::size(kOps)) {
        keep_.push_back(py::reinterpret_borrow<py::object>(op));
        ops_.emplace_back(op.ptr(), code);
      }
      return code;
    }
    throw UserError("unknown kind of node: " + py::repr(op).cast<std::string>());
  }

  TargetEntry target_of(Op op, py::handle target, py::handle args) {
    switch (op) {
      case Op::kCallFunction: {
        const TargetEntry entry = targets_.resolve(target);
        if (!entry.wraps || PyTuple_GET_SIZE(args.ptr()) == 0) return entry;
        const py::handle wrapped = PyTuple_GET_ITEM(args.ptr(), 0);
        if (!has_type(wrapped, op_overload_type_)) return entry;
        return targets_.compound(entry, targets_.resolve(wrapped));
      }
      case Op::kCallMethod: {
        const auto name = target.cast<std::string>();
        TargetEntry entry{intern_target("call_method." + name), 0, false};
        // By torch's convention a method that ends in one underscore writes to its object.
        if (name.size() > 1 && name.back() == '_' && name[name.size() - 2] != '_') {
          describe_target(entry.id, target_flag::kMutates, 1);
          entry.flags = target_flag::kMutates;
        }
        return entry;
      }
      case Op::kPlaceholder:
        return {placeholder_, 0, false};
      case Op::kGetAttr:
        return {get_attr_, 0, false};
      case Op::kCallModule:
        return {call_module_, target_flags(call_module_), false};
      case Op::kOutput:
        return {output_, 0, false};
    }
    return {};
  }

  // Containers nest as deep as a user likes: they wait on a stack of our own.
  struct Pending {
    py::handle container;
    uint32_t begin;
  };

  void put(uint32_t slot, py::handle value) { out_.table.set_value(slot, encode(value)); }

  void drain() {
    while (!pending_.empty()) {
      const Pending next = pending_.back();
      pending_.pop_back();
      PyObject* container = next.container.ptr();
      uint32_t slot = next.begin;
      if (PyDict_Check(container) != 0) {
        PyObject* key = nullptr;
        PyObject* value = nullptr;
        Py_ssize_t at = 0;
        while (PyDict_Next(container, &at, &key, &value) != 0) {
          put(slot++, key);
          put(slot++, value);
        }
      } else if (PySlice_Check(container) != 0) {
        auto* slice = reinterpret_cast<PySliceObject*>(container);
        for (PyObject* part : {slice->start, slice->stop, slice->step}) put(slot++, part);
      } else if (PyTuple_Check(container) != 0) {
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(container); ++i) {
          put(slot++, PyTuple_GET_ITEM(container, i));
        }
      } else {
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(container); ++i) {
          put(slot++, PyList_GET_ITEM(container, i));
        }
      }
    }
  }

  Argument container(Tag tag, py::handle value, Py_ssize_t count) {
    NodeTable& table = out_.table;
    const auto n = static_cast<uint32_t>(count);
    const uint32_t begin = table.reserve_values(n);
    if (n > 0) pending_.push_back({value, begin});
    return table.make_container(tag, begin, n);
  }

  Argument encode(py::handle value) {
    NodeTable& table = out_.table;
    PyObject* object = value.ptr();
    if (access_.is_node(value)) {
      const NodeId id = ids_.find(object);
      if (id == kNone) refuse_operand(value);
      return {Tag::kNode, id};
    }
    if (object == Py_None) return {Tag::kNoneType, 0};
    if (object == Py_True) return {Tag::kBool, 1};
    if (object == Py_False) return {Tag::kBool, 0};
    if (PyLong_Check(object) != 0) {
      int overflow = 0;
      const long long number = PyLong_AsLongLongAndOverflow(object, &overflow);
      if (overflow == 0) return table.make_int(number);
      return table.make_string(Tag::kOpaque, py::str(value).cast<std::string>());
    }
    if (PyFloat_Check(object) != 0) return table.make_float(PyFloat_AS_DOUBLE(object));
    if (PyUnicode_Check(object) != 0) return {Tag::kString, text_of(value, /*as_is=*/true)};
    if (PyTuple_Check(object) != 0) return container(Tag::kTuple, value, PyTuple_GET_SIZE(object));
    if (PyList_Check(object) != 0) return container(Tag::kList, value, PyList_GET_SIZE(object));
    if (PyDict_Check(object) != 0) {
      return container(Tag::kDict, value, 2 * PyDict_GET_SIZE(object));
    }
    if (PySlice_Check(object) != 0) return container(Tag::kSlice, value, 3);
    return encode_torch(value);
  }

  Argument encode_torch(py::handle value) {
    NodeTable& table = out_.table;
    if (has_type(value, dtype_type_)) return {Tag::kDtype, text_of(value, false)};
    if (has_type(value, device_type_)) {
      return table.make_string(Tag::kDevice, py::str(value).cast<std::string>());
    }
    if (has_type(value, layout_type_) || has_type(value, memory_format_type_)) {
      return {Tag::kConst, text_of(value, false)};
    }
    if (has_type(value, op_overload_type_)) return {Tag::kTarget, targets_.resolve(value).id};
    if (has_type(value, symint_type_)) {
      const Dim dim = out_.metas.dim_of(table, value);
      return dim.is_expr() ? Argument{Tag::kExpr, dim.expr_id()} : table.make_int(dim.raw);
    }
    const auto type = py::type::handle_of(value).attr("__qualname__").cast<std::string>();
    if (options_.complete) return table.make_string(Tag::kOpaque, "<" + type + ">");
    // Within one graph an object is told from others by where it is.
    return table.make_string(
        Tag::kOpaque,
        "<" + type + " " + std::to_string(reinterpret_cast<uintptr_t>(value.ptr())) + ">");
  }

  // Strings and torch's constants are few objects used over and over: remembered by address, which
  // the graph keeps alive while it is read.
  uint32_t text_of(py::handle value, bool as_is) {
    const auto known = texts_.find(value.ptr());
    if (known != texts_.end()) return known->second;
    const auto text = as_is ? value.cast<std::string>() : py::str(value).cast<std::string>();
    const uint32_t id = out_.table.intern_string(text);
    texts_.emplace(value.ptr(), id);
    return id;
  }

  [[noreturn]] void refuse_operand(py::handle operand) {
    const auto name = [](py::handle node) { return node.attr("name").cast<std::string>(); };
    const bool same_graph = py::object(operand.attr("graph")).is(graph_);
    const bool erased = operand.attr("_erased").cast<bool>();
    const std::string why = !same_graph ? "belongs to another graph"
                            : erased    ? "was erased from the graph"
                                        : "comes after it";
    throw UserError("node %" + name(node_) + " reads %" + name(operand) + ", which " + why +
                    "; run graph.lint() and repair the graph first");
  }

  py::handle graph_;
  const EncodeOptions& options_;
  const NodeAccess& access_;
  NodeIds ids_;
  EncodedGraph out_;
  TargetCache targets_;
  py::handle node_;
  std::vector<NodeId> wanted_;  // whose meta is read
  std::unordered_set<PyObject*> pure_;
  std::array<py::object, kFieldCount> fields_;
  std::vector<Pending> pending_;
  std::vector<std::pair<PyObject*, Op>> ops_;
  std::vector<py::object> keep_;
  std::unordered_map<PyObject*, uint32_t> texts_;
  py::object dtype_type_, device_type_, layout_type_, memory_format_type_, symint_type_;
  py::object op_overload_type_;
  const TargetId placeholder_ = intern_target("placeholder");
  const TargetId get_attr_ = intern_target("get_attr");
  const TargetId call_module_ = intern_target("call_module");
  const TargetId output_ = intern_target("output");
};

}  // namespace

py::object EncodedGraph::name(NodeId id) const {
  return NodeAccess::instance().read(nodes[id], Field::kName);
}

void EncodedGraph::read_names() {
  if (named) return;
  for (NodeId id = 0; id < table.size(); ++id) {
    table.set_name(id, table.intern_string(name(id).cast<std::string>()));
  }
  named = true;
}

EncodedGraph encode(py::handle graph, const EncodeOptions& options) {
  return Encoder(graph, options).run();
}

}  // namespace spfast::fx
