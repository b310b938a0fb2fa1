// Every edit that makes one operator of a collective and the products beside it.
#pragma once

#include <string>
#include <vector>

#include "rewrite/plan.h"

namespace spfast {

// What meta["val"] of a created node is.
struct PairValue {
  enum class Kind : uint8_t {
    kOf,     // the same as node `of` has
    kNone,   // None
    kTuple,  // of `parts`
    kList,   // of `parts`
    kPart,   // item `number` of the value of created node `of`
    kMade,   // has to be made, as `form` says
  };
  // What is made of the value of node `of`, and of others.
  enum class Form : uint8_t {
    kFlat,       // viewed as a matrix
    kCast,       // of the created node `of`: with the dtype of `dtype`
    kTurned,     // the leading dims of `like`, laid out with dim 1 outermost
    kWhole,      // a matrix, with the dtype of `dtype`
    kScattered,  // the dims of `like`, with 1 / `count` of dim `number`
    kJoined,     // its dims, with `count` in dim `number`
    kViewed,     // viewed with the leading dims of `like`
    kRows,       // its first size
    kFresh,      // as it is, with a storage of its own
  };
  Kind kind = Kind::kNone;
  NodeRef of = kNone;  // a node of the table, or one that the plan creates
  int64_t number = 0;
  std::vector<PairValue> parts = {};
  Form form = Form::kFlat;
  NodeId like = kNone;
  NodeId dtype = kNone;
  int64_t count = 1;
};

struct PlannedPair {
  NodeId collective = kNone;     // its call
  std::vector<NodeId> products;  // the node that multiplies, of each
  uint32_t fused = 0;            // of the plan's created nodes
};

struct LeftCollective {
  NodeId call = kNone;
  std::string why;
};

struct PairPlan {
  Plan plan;
  std::vector<PairValue> values;     // of the created nodes
  std::vector<PlannedPair> pairs;    // in graph order
  std::vector<LeftCollective> left;  // likewise
};

}  // namespace spfast
