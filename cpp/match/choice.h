// Which of the matches at one anchor serves the readers of its values best.
#pragma once

#include <span>
#include <vector>

#include "match/match.h"

namespace spfast {

class Choice {
 public:
  Choice(const NodeTable& table, const ProgramSet& programs)
      : table_(table), programs_(programs), stamp_(table.size(), kNone) {}

  // The match of highest priority, then the longest, then the first in the graph. A shorter one
  // that is part of it is taken where that leaves fewer values to be gathered: a norm may be read
  // in full beside its quantisation; then it is gathered once, and quantised in full. `claimed`: by
  // node, whether another site has it. kNone where another site has a part of every match.
  [[nodiscard]] uint32_t best(std::span<const Match> matches, LookThrough look,
                              const std::vector<bool>& claimed);
  // The matches that are part of one of them, the best last.
  [[nodiscard]] std::vector<uint32_t> parts(std::span<const Match> matches, uint32_t of) const;

 private:
  [[nodiscard]] bool better(const Match& a, const Match& b) const;
  [[nodiscard]] uint32_t gathers(const Match& match, LookThrough look,
                                 const std::vector<bool>& claimed);
  [[nodiscard]] bool read_in_full(NodeId value, LookThrough look, const std::vector<bool>& claimed);

  const NodeTable& table_;
  const ProgramSet& programs_;
  std::vector<uint32_t> stamp_;  // by node: of which count it is an operation
  uint32_t counts_ = 0;
  std::vector<NodeId> sorted_;
  std::vector<NodeId> pending_;
};

}  // namespace spfast
