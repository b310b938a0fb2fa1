// The Plan: every edit that a rewrite makes, in the order in which it is made. A plan can be
// printed, compared and tested alone; applying it is fx/'s work.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "table/node_table.h"

namespace spfast {

// A node of the table, or, from table.size() on, a node that the plan creates.
using NodeRef = uint32_t;

struct PlanArg {
  enum class Kind : uint8_t { kNode, kInt, kInts, kCopy, kDtype, kGiven, kText };
  Kind kind = Kind::kInt;
  NodeRef node = kNone;        // kNode; of a kCopy the node whose argument is copied; of a kDtype
                               // the node whose dtype it is, kNone: bytes
  int64_t value = 0;           // kInt; of a kCopy the position of that argument; of a kGiven which
                               // of the objects that come with the plan; of a kText a string id
  std::vector<PlanArg> items;  // kInts: a list of sizes, or of other arguments

  [[nodiscard]] static PlanArg of(NodeRef node) { return {Kind::kNode, node, 0, {}}; }
  [[nodiscard]] static PlanArg integer(int64_t value) { return {Kind::kInt, kNone, value, {}}; }
  [[nodiscard]] static PlanArg dtype_of(NodeRef node) { return {Kind::kDtype, node, 0, {}}; }
  [[nodiscard]] static PlanArg bytes() { return {Kind::kDtype, kNone, 0, {}}; }
  [[nodiscard]] static PlanArg given(uint32_t index) { return {Kind::kGiven, kNone, index, {}}; }
  [[nodiscard]] static PlanArg text(int64_t string) { return {Kind::kText, kNone, string, {}}; }
  [[nodiscard]] static PlanArg sizes(std::vector<PlanArg> items) {
    return {Kind::kInts, kNone, 0, std::move(items)};
  }
  [[nodiscard]] static PlanArg copy(NodeId node, int64_t position) {
    return {Kind::kCopy, node, position, {}};
  }
};

// What meta["val"] a created or resized node gets, told by an existing node that it is like (dtype,
// device, last dim) and its leading dims.
struct MetaSpec {
  enum class Form : uint8_t {
    kLocal,       // [tokens / tp, last]
    kGathered,    // [tp * (tokens / tp), last]
    kFlat,        // [tokens, last]
    kSame,        // the dims of `like`
    kLocalSize,   // the number tokens / tp
    kScaled,      // `factor` times that number
    kDimSize,     // size `factor` of `like`
    kLocalBytes,  // as kLocal and kGathered, with every element as a byte
    kGatheredBytes,
    kOne,     // [1, last]
    kOwn,     // as kLocal: the rank's rows of a value that is there in full
    kSpread,  // `like` with a row for each token, in the dims of who reads it
    kFresh,   // as kLocal, with the strides of a fresh tensor
    kPart,    // [last]: what a sum over tokens yields
    kTotal,   // the same with the leading dims of `like`, all of them 1
    // Where the ranks cannot share the tokens evenly, so that rows are added:
    kPadded,   // as kGathered, with these behind the tokens
    kCut,      // [tokens, last], without them
    kTokens,   // the number tokens + factor
    kMissing,  // how many rows are missing
  };
  Form form = Form::kLocal;
  NodeId like = kNone;
  uint32_t token_class = 0;
  int64_t factor = 1;  // of the other forms: how many last dims stand for `last`
};

struct Created {
  TargetId target = kNone;
  std::vector<PlanArg> args;
  NodeId kwargs_of = kNone;  // copies that node's keyword arguments
  std::vector<std::pair<std::string, PlanArg>> kwargs = {};
  bool contiguous = false;  // asks for torch.contiguous_format
  NodeId before = kNone;    // stands before this node, after what was created there earlier
  NodeId origin = kNone;    // whose stack_trace and the like it takes over
  MetaSpec meta;
};

struct Edit {
  enum class Kind : uint8_t {
    kCreate,  // created[a]
    kRewire,  // node a reads c where it read b
    kSetDim,  // argument b of node a, a dim or a list of such, counts from the back of c dims; c
              // kNone: it becomes -1, the last dim
    kResize,  // node a carries metas[b]
    kMove,    // node a to before node b
    kErase,   // node a
  };
  Kind kind;
  uint32_t a = kNone;
  uint32_t b = kNone;
  NodeRef c = kNone;
};

// What is done about a number of tokens, as in TokenClass.
struct Verdict {
  std::string refused = {};
  bool padded = false;
};

// Sites with the same number of tokens over the same group: they share local sizes.
struct TokenClass {
  Dim tokens;
  uint32_t group = 0;      // index into the groups
  int64_t ranks = 1;       // that share the tokens
  NodeId example = kNone;  // an all_reduce that has it
  std::string refused;     // not empty: why its sites stay
  bool padded = false;     // the ranks cannot share them evenly, so rows are added
};

struct Plan {
  std::vector<TokenClass> classes;
  std::vector<Created> created;
  std::vector<MetaSpec> metas;
  std::vector<Edit> edits;
};

[[nodiscard]] std::string format_plan(const NodeTable& table, const Plan& plan);

}  // namespace spfast
