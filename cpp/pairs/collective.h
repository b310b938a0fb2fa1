// The reduce_scatters and all_gathers of a graph, in whichever dialect they are spelled.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "pairs/live_graph.h"
#include "rewrite/collectives.h"

namespace spfast {

// How a dialect calls one of the two.
struct CollectiveForm {
  TargetId target = kNone;
  bool gathers = false;
  TargetId wait = kNone;  // kNone: the call yields the finished result
  std::vector<CollectiveArg> slots;
  std::vector<std::string> names;  // of its arguments; empty where nobody knows them
};

// Why something stays, in one sentence.
using Why = std::string;

struct FoundCollective {
  NodeId call = kNone;
  NodeId value = kNone;    // yields the result: its wait, itself, or the cat of parts behind it
  NodeId operand = kNone;  // what it moves: this rank's part of a sum, or this rank's rows
  size_t dim = 0;  // scattered or gathered along it; 0 where the rows lie one after the other
  Argument group;
  int64_t size = 0;  // ranks of the group
  bool gathers = false;
  std::string reduce_op;       // of a reduce_scatter
  std::vector<NodeId> inside;  // the nodes of which it consists, first to last
};

// What a call moves; or why that cannot be told.
[[nodiscard]] std::variant<FoundCollective, Why> read_collective(LiveGraph& graph,
                                                                 const CollectiveForm& form,
                                                                 NodeId call);

}  // namespace spfast
