// Examines each match: which values of it would be sharded, what it reads from outside, and whether
// its rewrite can be proved right. What the examination needs to know about values it asks for.
#pragma once

#include <vector>

#include "match/finder.h"
#include "rewrite/effects.h"
#include "rewrite/reason.h"

namespace spfast {

// One operand of an interior node that has to become local.
struct SiteOperand {
  enum class Kind : uint8_t { kStream, kRows, kBuffer };
  Kind kind = Kind::kStream;
  NodeId user = kNone;
  NodeId name = kNone;  // as the user reads it
  NodeId root = kNone;  // the value behind its views and copies
};

struct Site {
  uint32_t match = 0;
  uint32_t token_class = 0;
  bool flat = false;             // the stream has more than two dims and is flattened
  bool views = false;            // some operand is read through a view
  std::vector<NodeId> interior;  // in graph order; without the reduced value
  std::vector<SiteOperand> operands;
  Reason reason;
};

struct Sites {
  std::vector<Site> sites;  // one for each match
  std::vector<TokenClass> classes;
  std::vector<NodeId> missing;  // values whose meta is needed; ask again when it is there
};

// A class that somebody outside refused, with the reason.
struct RefusedClass {
  Dim tokens;
  uint32_t group = 0;
  std::string why;
};

[[nodiscard]] Sites examine_sites(const NodeTable& table, const ProgramSet& programs,
                                  const MatchResult& matches, std::span<const GroupInfo> groups,
                                  std::span<const RefusedClass> refused, const Effects& effects);

}  // namespace spfast
