#include <pybind11/stl.h>

#include "base/check.h"
#include "bind/bind.h"
#include "fx/encode.h"
#include "fx/named_tuple.h"
#include "table/file_format.h"
#include "table/targets.h"

namespace spfast {
namespace {

const fx::NamedTuple<4>& tensor_meta() {
  static const auto& type = *new fx::NamedTuple<4>(
      "spfast._core.TensorMeta", "A tensor without its elements; dims as NodeTable.rows has them.",
      {"dims", "strides", "dtype", "device"});
  return type;
}

const fx::NamedTuple<6>& node_row() {
  static const auto& type =
      *new fx::NamedTuple<6>("spfast._core.NodeRow", "One node of a table.",
                             {"op", "target", "name", "args", "kwargs", "val"});
  return type;
}

// Arguments become what spfast.table reads: plain Python where there is a like, else ("tag",
// payload). Containers nest as deep as their maker liked: they are built with a stack of our own.
class Decoder {
 public:
  explicit Decoder(const NodeTable& table) : table_(table) {}

  py::object value(Argument root) {
    py::object result = shallow(root);
    while (!pending_.empty()) {
      auto [value, list] = pending_.back();
      pending_.pop_back();
      for (const Argument item : table_.items(value)) list.append(shallow(item));
    }
    return result;
  }

  [[nodiscard]] py::object dim(Dim one) const {
    if (!one.is_expr()) return py::int_(one.raw);
    return py::make_tuple("expr", table_.expr(one.expr_id()));
  }

  [[nodiscard]] py::list dims(std::span<const Dim> all) const {
    py::list out;
    for (const Dim one : all) out.append(dim(one));
    return out;
  }

  [[nodiscard]] py::object meta(const Meta& meta) const {
    switch (meta.kind) {
      case MetaKind::kUnknown:
      case MetaKind::kMissing:
        return py::none();
      case MetaKind::kSym:
        return py::make_tuple("sym", dim(table_.dims(meta)[0]));
      case MetaKind::kTensor:
        return tensor_meta().make(dims(table_.dims(meta)), dims(table_.strides(meta)),
                                  text(meta.dtype), text(meta.device));
      case MetaKind::kTuple: {
        py::list parts;
        for (const uint32_t part : table_.parts(meta))
          parts.append(this->meta(table_.meta_at(part)));
        return py::make_tuple("tuple", parts);
      }
    }
    return py::none();
  }

 private:
  [[nodiscard]] py::object text(uint32_t id) const {
    if (id == kNone) return py::none();
    return py::str(table_.string(id));
  }

  py::object shallow(Argument value) {
    switch (value.tag) {
      case Tag::kAbsent:
      case Tag::kNoneType:
        return py::none();
      case Tag::kBool:
        return py::bool_(value.payload != 0);
      case Tag::kInt:
        return py::int_(table_.as_int(value));
      case Tag::kFloat:
        return py::float_(table_.as_float(value));
      case Tag::kString:
        return py::str(table_.string(value.payload));
      case Tag::kNode:
        return py::make_tuple("node", value.payload);
      case Tag::kDtype:
        return py::make_tuple("dtype", table_.string(value.payload));
      case Tag::kDevice:
        return py::make_tuple("device", table_.string(value.payload));
      case Tag::kConst:
        return py::make_tuple("const", table_.string(value.payload));
      case Tag::kTarget:
        return py::make_tuple("target", target_name(value.payload));
      case Tag::kExpr:
        return py::make_tuple("expr", table_.expr(value.payload));
      case Tag::kOpaque:
        return py::make_tuple("opaque", table_.string(value.payload));
      case Tag::kList:
        return container("list", value);
      case Tag::kTuple:
        return container("tuple", value);
      case Tag::kDict:
        return container("dict", value);
      case Tag::kSlice:
        return container("slice", value);
    }
    return py::none();
  }

  py::object container(const char* kind, Argument value) {
    py::list items;
    pending_.emplace_back(value, items);
    return py::make_tuple(kind, items);
  }

  const NodeTable& table_;
  std::vector<std::pair<Argument, py::list>> pending_;
};

const char* op_name(Op op) {
  static constexpr const char* kNames[] = {"placeholder", "get_attr",    "call_function",
                                           "call_module", "call_method", "output"};
  return kNames[static_cast<size_t>(op)];
}

// A node_row() for each node.
py::list rows(const NodeTable& table) {
  Decoder decoder(table);
  py::list out;
  for (NodeId node = 0; node < table.size(); ++node) {
    py::list args;
    for (const Argument value : table.args(node)) args.append(decoder.value(value));
    py::list kwargs;
    const auto pairs = table.kwargs(node);
    for (size_t i = 0; i < pairs.size(); i += 2) {
      kwargs.append(py::make_tuple(decoder.value(pairs[i]), decoder.value(pairs[i + 1])));
    }
    const py::object name = table.name(node) == kNone ? py::object(py::none())
                                                      : py::str(table.string(table.name(node)));
    out.append(node_row().make(op_name(table.op(node)), target_name(table.target(node)), name, args,
                               kwargs, decoder.meta(table.meta(node))));
  }
  return out;
}

py::list symbols(const NodeTable& table) {
  py::list out;
  for (const auto& [name, hint] : table.symbols()) {
    out.append(py::make_tuple(table.string(name), hint));
  }
  return out;
}

NodeTable from_graph(py::handle graph, const py::sequence& hints) {
  fx::EncodeOptions options;
  options.complete = true;
  NodeTable table = std::move(fx::encode(graph, options).table);
  for (const py::handle hint : hints) {
    const py::tuple pair = py::reinterpret_borrow<py::tuple>(hint);
    table.add_symbol(pair[0].cast<std::string>(), pair[1].cast<int64_t>());
  }
  return table;
}

py::bytes to_bytes(const NodeTable& table) {
  const std::vector<uint8_t> bytes = write_table(table);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

NodeTable from_bytes(const py::bytes& bytes) {
  const std::string_view view = bytes;
  return read_table({reinterpret_cast<const uint8_t*>(view.data()), view.size()});
}

}  // namespace

void bind_table(py::module_& module) {
  module.def(
      "views", [] { return known_targets(target_flag::kView); },
      "Operators whose result is the same elements in the same order, in other sizes.");
  module.def(
      "copies", [] { return known_targets(target_flag::kIdentity); },
      "Operators whose result is the same elements in the same sizes.");
  module.attr("TensorMeta") = tensor_meta().type();
  module.attr("NodeRow") = node_row().type();
  py::class_<NodeTable>(module, "NodeTable", "A graph as flat arrays.")
      .def_static("from_graph", &from_graph, py::arg("graph"), py::arg("hints"))
      .def_static("from_bytes", &from_bytes, py::arg("data"))
      .def("to_bytes", &to_bytes)
      .def("rows", &rows)
      .def("symbols", &symbols)
      .def("memory_bytes", &NodeTable::memory_bytes)
      .def("__len__", &NodeTable::size);
}

}  // namespace spfast
