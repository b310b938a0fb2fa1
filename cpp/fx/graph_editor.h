// The edits of a torch.fx graph, one at a time. Where FX is as this editor knows it, the editor
// does what FX's methods do, in a fifth of the time. A trial shows once a process whether FX is so
// (spfast.fxgraph.trial): both ways must leave equal graphs. If a graph has hooks or is of a
// subclass, or if a method was replaced since, FX's methods are called.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <unordered_map>

#include "fx/node_access.h"

namespace spfast::fx {

class GraphEditor {
 public:
  enum class Way : uint8_t { kFastest, kMethods, kNative };

  // kNative is for the trial: whoever asks for it knows that the graph is a plain one.
  explicit GraphEditor(py::handle graph, Way way = Way::kFastest);
  ~GraphEditor();
  GraphEditor(const GraphEditor&) = delete;
  GraphEditor& operator=(const GraphEditor&) = delete;

  // A call before a node, named after `base`, which ends in no number.
  [[nodiscard]] py::object create_call(py::handle target, const py::str& base, py::handle before,
                                       const py::tuple& args = py::tuple(),
                                       const py::dict& kwargs = py::dict());
  // The same with its operands, by FX's method, for hooks that must see a node whole.
  [[nodiscard]] py::object create_whole(py::handle target, const py::str& base, py::handle before,
                                        const py::tuple& args, const py::dict& kwargs);
  void set_operands(py::handle node, py::handle args, py::handle kwargs) const;
  void set_meta(py::handle node, py::handle meta) const;
  void replace_input(py::handle user, py::handle old, py::handle now) const;
  void erase(py::handle node);
  // Writes down how long the graph is now. Call it when all edits are made.
  void finish();

  [[nodiscard]] bool native() const { return native_; }
  // For tests: after so many more edits, one raises, before or after it is made. Negative: none
  // does.
  static void break_after(int64_t edits);

 private:
  py::str name_for(const py::str& base);
  // Where FX finds the calls of an operator.
  [[nodiscard]] py::dict calls_of(py::handle target);

  py::handle graph_;
  bool native_ = false;
  py::object insert_;  // as it was, where it was changed
  py::handle last_before_;
  py::object create_node_, erase_node_;
  // What FX keeps of the graph.
  py::dict names_of_;
  py::object used_names_;
  py::dict base_counts_;
  py::object lookup_;
  std::unordered_map<PyObject*, py::dict> by_target_;
  Py_ssize_t added_ = 0;
};

}  // namespace spfast::fx
