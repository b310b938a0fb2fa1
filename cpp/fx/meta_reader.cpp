#include "fx/meta_reader.h"

#include <algorithm>
#include <charconv>

#include "fx/node_access.h"

namespace spfast::fx {
namespace {

py::object attribute(py::handle object, const py::str& name) {
  return stolen(PyObject_GetAttr(object.ptr(), name.ptr()));
}

// While it lives, tensor subclasses have no __torch_function__. A fake tensor's is disabled anyway,
// and torch would find that out anew for each attribute: a third of the time in which sizes are
// read.
class PlainAttributes {
 public:
  PlainAttributes() { guard_.attr("__enter__")(); }
  ~PlainAttributes() {
    try {
      guard_.attr("__exit__")(py::none(), py::none(), py::none());
    } catch (py::error_already_set& error) {
      error.discard_as_unraisable("spfast");
    }
  }
  PlainAttributes(const PlainAttributes&) = delete;
  PlainAttributes& operator=(const PlainAttributes&) = delete;

 private:
  py::object guard_ =
      py::module_::import("torch").attr("_C").attr("DisableTorchFunctionSubclass")();
};

}  // namespace

MetaReader::MetaReader(bool layout) : layout_(layout) {
  const py::module_ torch = py::module_::import("torch");
  tensor_type_ = torch.attr("Tensor");
  symint_type_ = torch.attr("SymInt");
}

void MetaReader::read(NodeTable& table, NodeId id, py::handle node) {
  const py::object meta = NodeAccess::instance().read(node, Field::kMeta);
  PyObject* value = PyDict_GetItemWithError(meta.ptr(), val_.ptr());
  if (value == nullptr) {
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
    Meta missing;
    missing.kind = MetaKind::kMissing;
    table.set_meta(id, table.add_meta(missing));
    return;
  }
  table.set_meta(id, read_value(table, value));
}

void MetaReader::read_number(NodeTable& table, NodeId id, py::handle node) {
  const py::object meta = NodeAccess::instance().read(node, Field::kMeta);
  PyObject* value = PyDict_GetItemWithError(meta.ptr(), val_.ptr());
  if (value == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
  if (value != nullptr && is_number(value)) table.set_meta(id, read_value(table, value));
}

void MetaReader::read_all(NodeTable& table, std::span<const NodeId> wanted,
                          const std::vector<py::object>& nodes) {
  // From a node to its value it is four steps through memory that is in no cache: each is asked for
  // while the nodes before are read.
  if (wanted.empty()) return;
  const PlainAttributes plain;
  const NodeAccess& access = NodeAccess::instance();
  const auto meta_of = [&](size_t i) { return access.peek(nodes[wanted[i]].ptr(), Field::kMeta); };
  const auto dict_at = [&](size_t i) -> PyObject* {
    PyObject* meta = i < wanted.size() ? meta_of(i) : nullptr;
    return meta != nullptr && PyDict_Check(meta) != 0 ? meta : nullptr;
  };
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (i + 8 < wanted.size()) __builtin_prefetch(nodes[wanted[i + 8]].ptr());
    if (i + 6 < wanted.size()) __builtin_prefetch(meta_of(i + 6));
    if (PyObject* meta = dict_at(i + 4)) {
      const auto* keys =
          reinterpret_cast<const char*>(reinterpret_cast<const PyDictObject*>(meta)->ma_keys);
      __builtin_prefetch(keys);
      __builtin_prefetch(keys + 64);
    }
    if (PyObject* meta = dict_at(i + 2)) {
      __builtin_prefetch(PyDict_GetItemWithError(meta, val_.ptr()));
      PyErr_Clear();  // whoever reads it in its turn will meet the error again
    }
    if (table.meta(wanted[i]).kind == MetaKind::kUnknown) read(table, wanted[i], nodes[wanted[i]]);
  }
}

bool MetaReader::is_number(py::handle value) const {
  return has_type(value, symint_type_) ||
         (PyLong_Check(value.ptr()) != 0 && PyBool_Check(value.ptr()) == 0);
}

uint32_t MetaReader::read_value(NodeTable& table, py::handle value) {
  if (has_type(value, tensor_type_)) return read_tensor(table, value);
  if (PyTuple_Check(value.ptr()) != 0 || PyList_Check(value.ptr()) != 0) {
    return read_tuple(table, value);
  }
  Meta meta;
  meta.kind = MetaKind::kMissing;
  if (is_number(value)) {
    meta.kind = MetaKind::kSym;
    const Dim dim = dim_of(table, value);
    meta.dims = table.add_dims(std::span(&dim, 1));
  }
  return table.add_meta(meta);
}

uint32_t MetaReader::read_tuple(NodeTable& table, py::handle values) {
  Meta meta;
  meta.kind = MetaKind::kTuple;
  std::vector<uint32_t> parts;
  for (const py::handle part : values) {
    const bool nested = PyTuple_Check(part.ptr()) != 0 || PyList_Check(part.ptr()) != 0;
    const uint32_t read = nested ? kNone : read_value(table, part);
    // No operator that we rewrite yields tuples of tuples, or of anything but tensors and numbers.
    if (nested || (!part.is_none() && table.meta_at(read).kind == MetaKind::kMissing)) {
      meta.kind = MetaKind::kMissing;
      parts.clear();
      break;
    }
    parts.push_back(read);
    if (part.ptr() != Py_None) parts_.emplace(part.ptr(), parts.back());
  }
  meta.parts = table.add_parts(parts);
  return table.add_meta(meta);
}

uint32_t MetaReader::read_tensor(NodeTable& table, py::handle tensor) {
  if (const auto known = parts_.find(tensor.ptr()); known != parts_.end()) return known->second;
  Meta meta;
  meta.kind = MetaKind::kTensor;
  const py::object sizes = attribute(tensor, shape_);
  std::vector<Dim>& dims = dims_;
  dims.clear();
  const Py_ssize_t rank = PyTuple_GET_SIZE(sizes.ptr());
  for (Py_ssize_t i = 0; i < rank; ++i) {
    dims.push_back(dim_of(table, PyTuple_GET_ITEM(sizes.ptr(), i)));
  }
  meta.dims = table.add_dims(dims);
  meta.dtype = text_of(table, attribute(tensor, dtype_));
  if (rank >= 2) meta.tokens = tokens_of(table, sizes, dims);
  if (layout_) {
    meta.device = table.intern_string(py::str(attribute(tensor, device_)).cast<std::string>());
  }
  std::vector<Dim>& strides = strides_;
  strides.clear();
  const py::object steps = stolen(PyObject_CallMethodNoArgs(tensor.ptr(), stride_.ptr()));
  for (Py_ssize_t i = 0; i < rank; ++i) {
    strides.push_back(dim_of(table, PyTuple_GET_ITEM(steps.ptr(), i)));
  }
  if (!is_contiguous(table, sizes, dims, strides)) meta.strides = table.add_dims(strides);
  return table.add_meta(meta);
}

// Whether the strides are those of a fresh tensor, to the last one: who reads strides sees those of
// dims of size 1 as well.
bool MetaReader::is_contiguous(NodeTable& table, py::handle sizes, const std::vector<Dim>& dims,
                               const std::vector<Dim>& strides) {
  const auto size_at = [&](size_t i) {
    return PyTuple_GET_ITEM(sizes.ptr(), static_cast<Py_ssize_t>(i));
  };
  int64_t expected = 1;
  size_t i = dims.size();
  for (; i > 0; --i) {
    if (strides[i - 1] != Dim::of(expected)) return false;
    if (dims[i - 1].is_expr()) break;
    expected *= std::max<int64_t>(dims[i - 1].raw, 1);
  }
  if (i <= 1) return true;
  // Strides further out are products with symbols. Torch takes 1 for a size that may be 0.
  const std::span<const Dim> all(dims);
  for (const bool at_least_one : {false, true}) {
    size_t at = i - 1;
    while (at > 0 &&
           strides[at - 1] == product(table, size_at, all.subspan(at), at, at_least_one)) {
      --at;
    }
    if (at == 0) return true;
  }
  return false;
}

uint32_t MetaReader::text_of(NodeTable& table, py::handle object) {
  const auto known = texts_.find(object.ptr());
  if (known != texts_.end()) return known->second;
  const uint32_t id = table.intern_string(py::str(object).cast<std::string>());
  texts_.emplace(object.ptr(), id);
  return id;
}

Dim MetaReader::dim_of(NodeTable& table, py::handle size) {
  if (PyLong_Check(size.ptr()) != 0) return Dim::of(size.cast<int64_t>());
  const py::object node = attribute(size, node_);
  // The expression as it was made. Nearly all are found by address. What torch's replacements make
  // of one is asked for only once.
  const py::object made = py::getattr(node, own_expr_, py::none());
  if (const auto seen = seen_.find(made.ptr()); seen != seen_.end()) return seen->second.second;
  if (!made.is_none() && exprs_.contains(made)) {
    const Dim dim{exprs_[made].cast<int64_t>()};
    seen_.emplace(made.ptr(), std::pair{made, dim});
    return dim;
  }
  const auto text = py::str(node.attr("expr")).cast<std::string>();
  int64_t number = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  Dim dim = Dim::of(number);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size()) {
    const uint32_t id = table.intern_expr(text);
    if (id >= symbols_.size()) symbols_.resize(id + 1);
    if (!symbols_[id]) symbols_[id] = py::reinterpret_borrow<py::object>(size);
    dim = Dim::expr(id);
  }
  if (!made.is_none()) exprs_[made] = py::int_(dim.raw);
  return dim;
}

// Only the product tells whether [4, s] and [4*s] are the same rows.
Dim MetaReader::tokens_of(NodeTable& table, py::handle sizes, const std::vector<Dim>& dims) {
  int64_t static_rows = 1;
  size_t symbolic = 0;
  Dim symbol;
  for (size_t i = 0; i + 1 < dims.size(); ++i) {
    if (dims[i].is_expr()) {
      ++symbolic;
      symbol = dims[i];
    } else {
      static_rows *= dims[i].raw;
    }
  }
  if (symbolic == 0) return Dim::of(static_rows);
  if (symbolic == 1 && static_rows == 1) return symbol;
  const auto size_at = [&](size_t i) {
    return PyTuple_GET_ITEM(sizes.ptr(), static_cast<Py_ssize_t>(i));
  };
  return product(table, size_at, std::span<const Dim>(dims).first(dims.size() - 1), 0, false);
}

// The product of sizes, of which the first is size `first` of the tensor.
template <typename SizeAt>
Dim MetaReader::product(NodeTable& table, const SizeAt& size_at, std::span<const Dim> dims,
                        size_t first, bool at_least_one) {
  std::vector<int64_t> key{at_least_one ? 1 : 0};
  for (const Dim dim : dims) key.push_back(dim.raw);
  if (const auto known = products_.find(key); known != products_.end()) return known->second;
  py::object all = py::int_(1);
  for (size_t i = 0; i < dims.size(); ++i) {
    auto size = py::reinterpret_borrow<py::object>(size_at(first + i));
    if (at_least_one) size = py::module_::import("torch").attr("sym_max")(size, 1);
    all = all * size;
  }
  const Dim dim = dim_of(table, all);
  products_.emplace(std::move(key), dim);
  return dim;
}

}  // namespace spfast::fx
