#include "fx/pair_values.h"

#include "base/check.h"
#include "fx/node_access.h"

namespace spfast::fx {
namespace {

using MadeForm = PairValue::Form;

const char* name_of(MadeForm form) {
  switch (form) {
    case MadeForm::kFlat:
      return "flat";
    case MadeForm::kCast:
      return "cast";
    case MadeForm::kTurned:
      return "turned";
    case MadeForm::kWhole:
      return "whole";
    case MadeForm::kScattered:
      return "scattered";
    case MadeForm::kJoined:
      return "joined";
    case MadeForm::kViewed:
      return "viewed";
    case MadeForm::kRows:
      return "rows";
    case MadeForm::kFresh:
      return "fresh";
  }
  return "";
}

class Maker {
 public:
  Maker(const EncodedGraph& encoded, const py::object& make, const py::list& made)
      : encoded_(encoded), access_(NodeAccess::instance()), make_(make), made_(made) {}

  // A tuple holds lists of values and these nothing nested: three levels at most.
  [[nodiscard]] py::object value(const PairValue& spec) const {
    switch (spec.kind) {
      case PairValue::Kind::kOf:
        return of(spec.of);
      case PairValue::Kind::kNone:
        return py::none();
      case PairValue::Kind::kTuple: {
        py::tuple parts(spec.parts.size());
        for (size_t i = 0; i < spec.parts.size(); ++i) parts[i] = value(spec.parts[i]);
        return parts;
      }
      case PairValue::Kind::kList: {
        py::list parts(spec.parts.size());
        for (size_t i = 0; i < spec.parts.size(); ++i) parts[i] = value(spec.parts[i]);
        return parts;
      }
      case PairValue::Kind::kPart:
        return stolen(PySequence_GetItem(of(spec.of).ptr(), static_cast<Py_ssize_t>(spec.number)));
      case PairValue::Kind::kMade:
        return make_(name_of(spec.form), of(spec.of), of(spec.like), of(spec.dtype), spec.number,
                     spec.count);
    }
    return py::none();
  }

 private:
  [[nodiscard]] py::object of(NodeRef node) const {
    if (node == kNone) return py::none();
    if (node >= encoded_.nodes.size()) return made_[node - encoded_.nodes.size()];
    const py::object meta = access_.read(encoded_.nodes[node], Field::kMeta);
    return stolen(PyObject_GetItem(meta.ptr(), val_.ptr()));
  }

  const EncodedGraph& encoded_;
  const NodeAccess& access_;
  const py::object& make_;
  const py::list& made_;
  py::str val_ = interned("val");
};

}  // namespace

py::list make_pair_values(const EncodedGraph& encoded, const PairPlan& plan,
                          const py::object& make) {
  SPFAST_CHECK(plan.values.size() == plan.plan.created.size());
  py::list made;
  const Maker maker(encoded, make, made);
  for (const PairValue& spec : plan.values) made.append(maker.value(spec));
  return made;
}

}  // namespace spfast::fx
