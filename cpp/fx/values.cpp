#include "fx/values.h"

#include <array>
#include <map>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/check.h"
#include "fx/node_access.h"

namespace spfast::fx {
namespace {

// How a fake tensor is made that differs from another in its storage alone.
struct Prototype {
  explicit Prototype(const py::tuple& parts)
      : fake_type(parts[0]),
        meta(parts[1]),
        size(parts[2]),
        dtype(parts[3]),
        device(parts[4]),
        mode(parts[5]),
        seal(parts[6]),
        state(parts[7]) {}
  py::object fake_type;
  py::object meta;  // what each is around in turn, with a storage of its own
  py::object size;  // elements of its storage
  py::object dtype;
  py::object device;  // as the fake tensor says
  py::object mode;
  py::object seal;  // forbids access to its data
  py::dict state;   // what a fresh one carries
};

class ValueMaker {
 public:
  explicit ValueMaker(const py::object& maker)
      : access_(NodeAccess::instance()),
        maker_(maker),
        make_(maker.attr("make")),
        describe_(maker.attr("describe")),
        prototypes_(maker.attr("prototypes")) {
    const py::module_ torch = py::module_::import("torch");
    make_subclass_ = torch.attr("Tensor").attr("_make_subclass");
    empty_ = torch.attr("empty");
    set_storage_ = torch.attr("_functionalize_unsafe_set");
    meta_device_ = torch.attr("device")("meta");
    getitem_ = py::module_::import("operator").attr("getitem");
  }

  py::object create(const ValueSpec& spec) { return made(spec, nullptr); }

  py::object resize(const ValueSpec& spec, py::list& described) {
    const py::handle node = spec.like;
    const Kind* kind = nullptr;
    is_strided_ = false;
    size_t place = 0;
    py::object value = part_of_resized(node, &kind, place);
    if (!value) {
      value = made(spec, &kind);
      if (PyTuple_Check(value.ptr()) != 0 || PyList_Check(value.ptr()) != 0) {
        tuples_[node.ptr()] = {value, kind};
        if (kind != nullptr) place = kind->parts.size();
      }
    }
    const py::object meta = access_.read(node, Field::kMeta);
    if (PyDict_GetItemWithError(meta.ptr(), tensor_meta_.ptr()) == nullptr) {
      described.append(py::none());
    } else if (kind == nullptr) {
      described.append(describe_(value));
    } else {
      // Of each of its parts, and last of the whole.
      py::object& known = kind->described[place];
      if (!known) known = describe_(value);
      described.append(known);
    }
    return value;
  }

  // Whether the strides of the last value are only guessed.
  [[nodiscard]] bool strided() const { return is_strided_; }

 private:
  struct Kind {
    py::object first;                             // its first value
    std::vector<std::optional<Prototype>> parts;  // of a tensor: one
    mutable std::vector<py::object> described;
  };

  // A part of a tuple is the same value as the tuple holds.
  py::object part_of_resized(py::handle node, const Kind** kind, size_t& place) const {
    if (tuples_.empty() || !access_.read(node, Field::kTarget).is(getitem_)) return {};
    const py::object args = access_.read(node, Field::kArgs);
    const auto found = tuples_.find(PyTuple_GET_ITEM(args.ptr(), 0));
    if (found == tuples_.end()) return {};
    const py::handle item = PyTuple_GET_ITEM(args.ptr(), 1);
    const py::object part = stolen(PyObject_GetItem(found->second.value.ptr(), item.ptr()));
    const Kind* all = found->second.kind;
    if (all != nullptr && PyLong_CheckExact(item.ptr()) != 0) {
      const Py_ssize_t at = PyLong_AsSsize_t(item.ptr());
      if (at >= 0) {
        *kind = all;
        place = static_cast<size_t>(at);
      }
    }
    return part;
  }

  py::object made(const ValueSpec& spec, const Kind** of) {
    const Key key{static_cast<int64_t>(spec.form), spec.token_class, spec.factor, spec.kind};
    is_strided_ = false;
    const bool known = spec.kind >= 0;
    const auto at = known ? kinds_.find(key) : kinds_.end();
    if (at != kinds_.end()) {
      if (py::object clone = clone_of(at->second, spec.like)) {
        if (of != nullptr) *of = &at->second;
        return clone;
      }
    }
    maker_.attr(strided_) = false;
    py::object value = make_(spec.form, spec.like, spec.token_class, spec.factor);
    is_strided_ = py::bool_(maker_.attr(strided_));
    if (known && at == kinds_.end() && spec.form != MetaSpec::Form::kOwn && !is_strided_) {
      if (auto parts = prototypes_of(value)) {
        const size_t count = parts->size();
        const auto [it, fresh] =
            kinds_.emplace(key, Kind{value, std::move(*parts), std::vector<py::object>(count + 1)});
        if (of != nullptr) *of = &it->second;
      }
    }
    return value;
  }

  // None where some tensor in it is no fake tensor that was made afresh.
  std::optional<std::vector<std::optional<Prototype>>> prototypes_of(const py::object& value) {
    std::vector<std::optional<Prototype>> out;
    const auto add = [&](py::handle tensor) {
      if (tensor.is_none()) {
        out.emplace_back();
        return true;
      }
      const py::object id = stolen(PyLong_FromVoidPtr(tensor.ptr()));
      PyObject* parts = PyDict_GetItemWithError(prototypes_.ptr(), id.ptr());
      if (parts == nullptr) return false;
      out.emplace_back(Prototype(py::reinterpret_borrow<py::tuple>(parts)));
      return true;
    };
    if (PyTuple_CheckExact(value.ptr()) == 0 && PyList_CheckExact(value.ptr()) == 0) {
      if (!add(value)) return std::nullopt;
      return out;
    }
    for (const py::handle part : value) {
      if (!add(part)) return std::nullopt;
    }
    return out;
  }

  // Nothing where the node's own value is of another mode or device.
  py::object clone_of(const Kind& kind, py::handle node) {
    const py::object meta = access_.read(node, Field::kMeta);
    const py::handle like = PyDict_GetItemWithError(meta.ptr(), val_.ptr());
    if (!like) return {};
    const bool is_tuple = PyTuple_CheckExact(kind.first.ptr()) != 0;
    if (!is_tuple && PyList_CheckExact(kind.first.ptr()) == 0) {
      return is_like(*kind.parts[0], like) ? clone(*kind.parts[0]) : py::object();
    }
    if (Py_TYPE(like.ptr()) != Py_TYPE(kind.first.ptr())) return {};
    const auto count = static_cast<Py_ssize_t>(kind.parts.size());
    if (PySequence_Fast_GET_SIZE(like.ptr()) != count) return {};
    PyObject** items = PySequence_Fast_ITEMS(like.ptr());
    for (Py_ssize_t i = 0; i < count; ++i) {
      const auto& part = kind.parts[static_cast<size_t>(i)];
      if (part ? !is_like(*part, items[i]) : items[i] != Py_None) return {};
    }
    py::object out = stolen(is_tuple ? PyTuple_New(count) : PyList_New(count));
    for (Py_ssize_t i = 0; i < count; ++i) {
      const auto& part = kind.parts[static_cast<size_t>(i)];
      PyObject* item = (part ? clone(*part) : py::object(py::none())).release().ptr();
      is_tuple ? PyTuple_SET_ITEM(out.ptr(), i, item) : PyList_SET_ITEM(out.ptr(), i, item);
    }
    return out;
  }

  [[nodiscard]] bool is_like(const Prototype& one, py::handle tensor) const {
    if (!has_type(tensor, one.fake_type)) return false;
    const py::object state = stolen(PyObject_GenericGetDict(tensor.ptr(), nullptr));
    if (PyDict_GetItemWithError(state.ptr(), mode_.ptr()) != one.mode.ptr()) return false;
    const auto same = [&](PyObject* device) {
      return device == one.device.ptr() ||
             PyObject_RichCompareBool(device, one.device.ptr(), Py_EQ) == 1;
    };
    // Newer torches keep it behind a property, which takes longer to ask.
    PyObject* device = PyDict_GetItemWithError(state.ptr(), own_device_.ptr());
    if (device != nullptr) return same(device);
    return same(stolen(PyObject_GetAttr(tensor.ptr(), device_.ptr())).ptr());
  }

  // What FakeTensor's constructor does, with the attributes of the first one, and a storage of its
  // own: an eighth of the time.
  py::object clone(const Prototype& one) const {
    PyObject* storage[] = {one.size.ptr(), one.dtype.ptr(), meta_device_.ptr()};
    const py::object own = stolen(PyObject_Vectorcall(empty_.ptr(), storage, 1, empty_keys_.ptr()));
    // The meta tensor takes the storage, and the fake one takes it from there. Newer torches ask a
    // tensor that gets a storage for its device, which this one cannot tell yet.
    PyObject* move[] = {one.meta.ptr(), own.ptr()};
    (void)stolen(PyObject_Vectorcall(set_storage_.ptr(), move, 2, nullptr));
    PyObject* subclass[] = {one.fake_type.ptr(), one.meta.ptr(), Py_False, Py_True,
                            one.device.ptr()};
    py::object fake =
        stolen(PyObject_Vectorcall(make_subclass_.ptr(), subclass, 3, subclass_keys_.ptr()));
    (void)stolen(PyObject_CallOneArg(one.seal.ptr(), fake.ptr()));
    // A copy as a whole takes a fifth of the time that an update takes, entry by entry.
    const py::object state = stolen(PyDict_Copy(one.state.ptr()));
    if (PyObject_GenericSetDict(fake.ptr(), state.ptr(), nullptr) != 0) {
      throw py::error_already_set();
    }
    return fake;
  }

  const NodeAccess& access_;
  const py::object& maker_;
  py::object make_, describe_;
  py::dict prototypes_;
  py::object make_subclass_, empty_, set_storage_, meta_device_, getitem_;
  bool is_strided_ = false;
  using Key = std::array<int64_t, 4>;
  std::map<Key, Kind> kinds_;
  struct Resized {
    py::object value;
    const Kind* kind = nullptr;
  };
  std::unordered_map<PyObject*, Resized> tuples_;  // of resized nodes
  py::tuple subclass_keys_ = py::make_tuple("dispatch_device", "device_for_backend_keys");
  py::tuple empty_keys_ = py::make_tuple("dtype", "device");
  py::str val_ = interned("val");
  py::str tensor_meta_ = interned("tensor_meta");
  py::str mode_ = interned("fake_mode");
  py::str device_ = interned("fake_device");
  py::str own_device_ = interned("_fake_device");
  py::str strided_ = interned("strided");
};

}  // namespace

Values make_values(const py::object& maker, const ValueSpecs& specs) {
  ValueMaker values(maker);
  Values out;
  size_t index = 0;
  const auto each = [&](const std::vector<ValueSpec>& wanted, auto&& make, py::list& made) {
    for (const ValueSpec& spec : wanted) {
      made.append(make(spec));
      if (values.strided()) out.strided.append(index);
      ++index;
    }
  };
  each(specs.created, [&](const ValueSpec& spec) { return values.create(spec); }, out.created);
  each(
      specs.resized, [&](const ValueSpec& spec) { return values.resize(spec, out.described); },
      out.resized);
  return out;
}

}  // namespace spfast::fx
