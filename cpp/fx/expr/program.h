// fx/expr/: torch's pattern expressions as flat programs that run over FX nodes.
//
// A program is an array of steps, one for each distinct expression of a pattern; steps refer to
// each other by index. Python (pattern_matcher/lowering.py) lowers the expressions, and refuses
// those that have no step. What a program does not know at run time, it leaves to torch's object.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <vector>

namespace spfast::expr {

namespace py = pybind11;

enum class Kind : uint8_t {
  kArg,        // binds anything, positionally
  kKeyword,    // binds anything by name
  kExclusive,  // the same, but no two of them the same value
  kIgnored,    // anything
  kCall,       // a node with a target and arguments
  kVarArgs,    // a node with a target: its arguments are bound
  kList,       // a list whose items match one expression
  kOutputs,    // several outputs, the later ones found from the earlier ones' users
  kRepeated,   // all users of the matched inputs that have the target must match
  kDims,       // a list of dims, whichever way they are counted
  kGetAttr,    // a get_attr node whose value Python compares
};

// How the arguments of a call nest, in prefix order.
struct Nest {
  enum class Kind : uint8_t { kLeaf, kSequence, kMapping };
  Kind kind = Kind::kLeaf;
  uint32_t size = 0;             // of a sequence
  std::vector<py::object> keys;  // of a mapping, in order
};

// A leaf of a call's arguments: another step, or a literal to compare with.
struct Item {
  int32_t step = -1;
  py::object literal;
};

inline constexpr int64_t kAnyUsers = -1;

struct Step {
  Kind kind = Kind::kIgnored;
  py::object name;  // kKeyword, kExclusive
  // kCall, kVarArgs; kGetAttr has users alone
  py::object op;
  std::vector<py::object> targets;
  py::object target_set;
  int64_t users = 1;
  // kCall: positional arguments, then the keyword arguments with these keys in this order
  uint32_t positional = 0;
  std::vector<py::object> keys;
  std::vector<Nest> nests;
  std::vector<Item> items;
  // kCall: whether a node has a keyword that the pattern does not name and that matters; null where
  // torch does not ask
  py::object undeclared;
  // kCall: sizes, dtype and device that the node's value must have; null where any will do
  py::object meta;
  // kGetAttr: whether the node's attribute is the pattern's value
  py::object holds;
  // kDims
  std::vector<int64_t> dims;
  int64_t rank = 0;
  // kList, kRepeated
  int32_t inner = -1;
  bool partial = false;
  // kOutputs; -1 is an output that is None
  std::vector<int32_t> outputs;

  [[nodiscard]] bool multiple_users() const {
    const bool node = kind == Kind::kCall || kind == Kind::kVarArgs || kind == Kind::kGetAttr;
    return node && (users == kAnyUsers || users > 1);
  }
};

class Program {
 public:
  // `lowered` is what lowering.py made: one dict a step, by the names of the fields above.
  Program(const py::list& lowered, int32_t root);

  [[nodiscard]] const Step& step(int32_t index) const { return steps_[static_cast<size_t>(index)]; }
  [[nodiscard]] size_t size() const { return steps_.size(); }
  [[nodiscard]] int32_t root() const { return root_; }
  // The steps whose nodes a match replaces.
  [[nodiscard]] const std::vector<int32_t>& outputs() const { return outputs_; }

 private:
  std::vector<Step> steps_;
  int32_t root_;
  std::vector<int32_t> outputs_;
};

}  // namespace spfast::expr
