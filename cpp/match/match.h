// What the machine finds, and what it says when it finds nothing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "match/look_through.h"
#include "pattern/program.h"
#include "table/node_table.h"

namespace spfast {

// How one family of collectives spells an all_reduce. A node that waits for it is part of it.
struct AllReduceFamily {
  // In place, or of several tensors in one call. Such a call counts only where it is listed:
  // somebody has made sure that no other node can tell it from a plain all_reduce.
  enum class Form : uint8_t { kPlain, kInPlace, kCoalesced };
  uint32_t id = 0;
  TargetId all_reduce = kNone;
  TargetId wait = kNone;   // kNone: the all_reduce itself yields the value
  int32_t reduce_op = -1;  // position of the reduce op; -1: always a sum
  int32_t group = 1;       // position of the group; -1: there is none to tell from others
  Form form = Form::kPlain;
};

// What a collective that carries no group is over.
inline constexpr Argument kUnnamedGroup{Tag::kNoneType, 0};

// One all_reduce of the graph.
struct Anchor {
  NodeId all_reduce = kNone;
  NodeId call = kNone;     // the collective: itself, or the call of several that it is a part of
  NodeId input = kNone;    // what is reduced; absent where it is not given by position
  NodeId reduced = kNone;  // the value it yields: itself, or its wait
  uint32_t family = 0;
  Argument group;
  Argument reduce_op;
};

// One rule that holds at one anchor.
struct Match {
  uint32_t rule = 0;
  uint32_t tree_node = 0;            // where the rule was complete
  uint32_t anchor = 0;               // index into the anchors
  std::vector<NodeId> operations;    // by operation of the pattern; [0] is the reduced value
  std::vector<Argument> parameters;  // by parameter; absent if the rule does not use it
};

// The deepest attempt at an anchor that no rule took: which rule, how far it got, and the first
// mismatch. Formatted only when somebody reads it.
struct Failure {
  uint32_t rule = kNone;
  uint32_t tree_node = kNone;
  uint32_t depth = 0;      // steps that held
  NodeId node = kNone;     // where the mismatch is
  uint32_t check = kNone;  // which operand; kNone: there is no such operation
  Argument found;
};

// Whether a group is a constant of the graph. One that is computed cannot be looked up.
[[nodiscard]] constexpr bool is_group(Argument group) {
  return group.tag != Tag::kAbsent && !group.is_node() && !is_container(group.tag);
}

enum class Outcome : uint8_t {
  kMatched,
  kNoMatch,
  kNoWait,
  kClaimed,
  kUnknownSize,
  kKeywords,
  kGroup,
  kTooMany,  // ways to read the value: not all of them were tried
};

struct AnchorReport {
  Outcome outcome = Outcome::kNoMatch;
  uint32_t match = kNone;  // index into the matches
  Failure failure;
};

struct MatchResult {
  std::vector<Anchor> anchors;        // in graph order
  std::vector<AnchorReport> reports;  // one for each anchor
  std::vector<Match> matches;         // in graph order of their anchors
  // Shorter matches that are part of them, for sites where the whole match asks too much. In the
  // same order; at each anchor the best first.
  std::vector<Match> shorter;
  AliasRoots roots;
  [[nodiscard]] LookThrough look(int64_t width) const { return {roots, width}; }
};

[[nodiscard]] std::string format_failure(const NodeTable& table, const ProgramSet& programs,
                                         const Failure& failure);

}  // namespace spfast
