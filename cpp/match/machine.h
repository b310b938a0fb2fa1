// Runs the program tree at one anchor and records every rule that holds there.
//
// There are two kinds of choice: among the users of a value, and in the order of commuting
// operands. Everything else is a check. To undo a choice costs little: registers above a step are
// overwritten, and slots that the step filled are cleared by a trail.
#pragma once

#include <cstdint>
#include <vector>

#include "match/look_through.h"
#include "match/match.h"

namespace spfast {

class Machine {
 public:
  Machine(const NodeTable& table, const ProgramSet& programs);
  // `look` must be for the width of the anchor's value, `rank` its number of dims. Matches are
  // appended in the order of the tree; the failure is the deepest.
  void run(LookThrough look, const Anchor& anchor, uint32_t anchor_index, uint32_t rank,
           std::vector<Match>& matches, Failure& failure);
  // Whether the last run ended before it had tried everything. A pattern of k operations can be
  // read in n^k ways from a value with n users of their operator. So the number of steps is
  // bounded.
  [[nodiscard]] bool gave_up() const { return steps_left_ == 0; }

 private:
  struct Register {
    NodeId node = kNone;
    uint32_t rank = kNone;  // its number of dims, 0 if that is unknown; kNone: not asked for yet
  };

  void explore(const std::vector<Dispatch>& groups, uint32_t filled);
  bool try_candidate(const Dispatch& group, NodeId node, uint32_t filled);
  void try_step(uint32_t tree_node, NodeId node, uint32_t filled);
  bool try_form(const Step& step, const Form& form, NodeId node, bool swapped, uint32_t filled);
  bool check_literal(const Check& check, const Form& form, NodeId node, Argument found,
                     uint32_t filled);
  bool check_operand(const Check& check, Argument found);
  bool check_fixed(const Form& form, NodeId node, size_t named);
  void collect_users(NodeId value);
  [[nodiscard]] bool is_same(Argument a, Argument b) const;
  [[nodiscard]] Argument fetch(NodeId node, const Location& where) const;
  [[nodiscard]] uint32_t rank_of(Argument value, uint32_t filled);
  [[nodiscard]] uint32_t result_rank(uint32_t at);
  void note_failure(uint32_t tree_node, NodeId node, uint32_t check, Argument found);
  void note_missing(const Dispatch& group, NodeId source);
  void accept(uint32_t tree_node);

  const NodeTable& table_;
  const ProgramSet& programs_;
  LookThrough look_;
  uint32_t anchor_index_ = 0;
  std::vector<Register> registers_;
  std::vector<Argument> slots_;
  std::vector<uint32_t> trail_;
  std::vector<NodeId> aliases_;  // of the value whose users are being collected
  std::vector<NodeId> users_;  // of the values that are being explored, one stretch after the other
  std::vector<Match>* matches_ = nullptr;
  Failure* failure_ = nullptr;
  size_t steps_left_ = 0;
  uint32_t failed_check_ = kNone;
  Argument failed_value_;
};

}  // namespace spfast
