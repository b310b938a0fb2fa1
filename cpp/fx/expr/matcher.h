// Runs a program at a node. The outcome is what torch's own object would give, with its order of
// comparisons, its retries and its quirks. Where that cannot be promised, the outcome is kUnknown.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "fx/expr/program.h"
#include "fx/node_access.h"

namespace spfast::expr {

enum class Outcome : uint8_t {
  kNo,
  kYes,
  kAbort,    // no, and no other candidate for an output may be tried: two bindings of a name differ
  kUnknown,  // only torch's object can tell
};

// What a match has bound, in the order in which torch binds it.
struct Found {
  std::vector<py::object> args;
  std::vector<std::pair<py::object, py::object>> kwargs;
  std::vector<py::object> nodes;
  std::vector<std::pair<int32_t, py::object>> targets;
  std::vector<py::object> bound;  // for each step; null where none is
};

class Matcher {
 public:
  explicit Matcher(const Program& program)
      : program_(program), access_(fx::NodeAccess::instance()) {}

  // Throws what comparing values in Python throws.
  [[nodiscard]] Outcome run(py::handle node);
  // After kYes.
  [[nodiscard]] const Found& found() const { return found_; }

 private:
  // The state of one of torch's match contexts. Values are borrowed: the graph, or `kept_`, holds
  // them while the matcher runs.
  struct Context {
    const std::vector<int32_t>* outputs;
    std::vector<PyObject*> bound;
    std::vector<PyObject*> exclusive;
  };
  // Where the bindings of a part of a match begin.
  struct Mark {
    size_t args, kwargs, nodes, targets;
  };
  using Anchors = std::function<bool(PyObject*)>;

  Outcome match(int32_t index, PyObject* value, Context& context);
  Outcome match_step(int32_t index, PyObject* value, Context& context);
  Outcome match_call(int32_t index, PyObject* node, Context& context);
  Outcome match_items(const Step& step, Context& context, const std::vector<PyObject*>& leaves);
  Outcome match_varargs(int32_t index, PyObject* node, Context& context);
  Outcome match_list(const Step& step, PyObject* value, const Context& context);
  Outcome match_outputs(const Step& step, PyObject* node, Context& context);
  Outcome match_repeated(int32_t index, PyObject* node, Context& context);
  Outcome match_get_attr(int32_t index, PyObject* node, const Context& context);

  [[nodiscard]] bool has_target(const Step& step, PyObject* value) const;
  [[nodiscard]] bool has_users(int32_t index, PyObject* node, const Context& context) const;
  // Whether the node has a keyword that the step does not name and that torch takes to matter.
  [[nodiscard]] bool has_undeclared(const Step& step, PyObject* node) const;
  // The leaves of a call's arguments where they nest as the step says.
  Outcome flatten(const Step& step, PyObject* node, std::vector<PyObject*>& leaves);
  Outcome flatten_value(const std::vector<Nest>& nests, size_t& next, PyObject* value,
                        std::vector<PyObject*>& leaves) const;
  // Calls `visit` for nodes that the step might match, next to what is bound; stops at true.
  bool visit_anchors(int32_t index, const Context& context, std::vector<PyObject*>& searched,
                     const Anchors& visit) const;

  [[nodiscard]] Mark mark() const;
  void rewind(const Mark& mark);
  // Whether names bound since `child` agree with those bound between `parent` and `child`.
  [[nodiscard]] bool names_agree(const Mark& parent, const Mark& child) const;
  // Packs the positional bindings since the mark into one tuple.
  void bundle(const Mark& mark);
  PyObject* keep(py::object value);

  const Program& program_;
  const fx::NodeAccess& access_;
  Found found_;
  std::vector<py::object> kept_;
};

// Whether a value lists the step's dims, from the front or from the back.
[[nodiscard]] bool are_dims(const Step& step, PyObject* value);
// a == b as Python says; a value is equal to itself unless it is a float.
[[nodiscard]] bool equal(PyObject* a, PyObject* b);

}  // namespace spfast::expr
