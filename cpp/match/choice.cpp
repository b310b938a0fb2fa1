#include "match/choice.h"

#include <algorithm>

#include "table/targets.h"

namespace spfast {
namespace {

// The operations of one match among those of another.
[[nodiscard]] bool is_part(const Match& part, const Match& whole) {
  if (part.operations.size() >= whole.operations.size()) return false;
  return std::all_of(part.operations.begin(), part.operations.end(), [&](NodeId node) {
    return std::find(whole.operations.begin(), whole.operations.end(), node) !=
           whole.operations.end();
  });
}

}  // namespace

uint32_t Choice::best(std::span<const Match> matches, LookThrough look,
                      const std::vector<bool>& claimed) {
  const auto is_free = [&](const Match& match) {
    return std::none_of(match.operations.begin() + 1, match.operations.end(),
                        [&](NodeId node) { return claimed[node]; });
  };
  uint32_t chosen = kNone;
  for (uint32_t i = 0; i < matches.size(); ++i) {
    if (!is_free(matches[i])) continue;
    if (chosen == kNone || better(matches[i], matches[chosen])) chosen = i;
  }
  if (chosen == kNone || matches.size() == 1) return chosen;
  // Counted only where there is something to choose from.
  uint32_t fewest = kNone;
  const uint32_t whole = chosen;
  for (uint32_t i = 0; i < matches.size(); ++i) {
    if (i == whole || !is_part(matches[i], matches[whole]) || !is_free(matches[i])) continue;
    if (fewest == kNone) fewest = gathers(matches[whole], look, claimed);
    const uint32_t count = gathers(matches[i], look, claimed);
    if (count > fewest || (count == fewest && !better(matches[i], matches[chosen]))) continue;
    fewest = count;
    chosen = i;
  }
  return chosen;
}

std::vector<uint32_t> Choice::parts(std::span<const Match> matches, uint32_t of) const {
  std::vector<uint32_t> found;
  for (uint32_t i = 0; i < matches.size(); ++i) {
    if (i != of && is_part(matches[i], matches[of])) found.push_back(i);
  }
  std::stable_sort(found.begin(), found.end(),
                   [&](uint32_t a, uint32_t b) { return better(matches[b], matches[a]); });
  return found;
}

bool Choice::better(const Match& a, const Match& b) const {
  const auto& rules = programs_.rules();
  if (rules[a.rule].priority != rules[b.rule].priority) {
    return rules[a.rule].priority > rules[b.rule].priority;
  }
  if (a.operations.size() != b.operations.size()) {
    return a.operations.size() > b.operations.size();
  }
  return a.operations < b.operations;
}

// How many values of the match somebody else reads in full.
uint32_t Choice::gathers(const Match& match, LookThrough look, const std::vector<bool>& claimed) {
  const uint32_t inside = counts_++;
  sorted_.assign(match.operations.begin() + 1, match.operations.end());
  std::sort(sorted_.begin(), sorted_.end());
  // What does not depend on the reduced value is the same for every token and never gathered.
  const auto is_inside = [&](Argument value) {
    return value.is_node() && stamp_[look.root(value.payload)] == inside;
  };
  const NodeId reduced = look.root(match.operations[0]);
  stamp_[reduced] = inside;
  for (const NodeId node : sorted_) {
    const auto operands = table_.operands(node);
    if (std::any_of(operands.begin(), operands.end(), is_inside)) stamp_[node] = inside;
  }
  // Each result of an operation with several is a value of its own.
  for (size_t i = 0; i < sorted_.size(); ++i) {
    const NodeId node = sorted_[i];
    if (stamp_[node] != inside) continue;
    for (const NodeId user : table_.users(node)) {
      const bool part = (table_.flags(user) & target_flag::kGetItem) != 0;
      if (!part || stamp_[user] == inside || claimed[user]) continue;
      stamp_[user] = inside;
      sorted_.push_back(user);
    }
  }
  uint32_t count = read_in_full(reduced, look, claimed) ? 1 : 0;
  for (const NodeId node : sorted_) {
    if (stamp_[node] == inside && node != reduced && read_in_full(node, look, claimed)) ++count;
  }
  return count;
}

bool Choice::read_in_full(NodeId value, LookThrough look, const std::vector<bool>& claimed) {
  static const TargetId kSymSize = intern_target("aten.sym_size.int");
  static const TargetId kEmptyLike = intern_target("aten.empty_like.default");
  const uint32_t inside = counts_ - 1;
  pending_.assign(1, value);
  while (!pending_.empty()) {
    const NodeId alias = pending_.back();
    pending_.pop_back();
    for (const NodeId user : table_.users(alias)) {
      if (stamp_[user] == inside || claimed[user]) continue;
      const TargetId target = table_.target(user);
      // A size is told by any value of that size, and a buffer holds nothing of the value.
      if (target == kSymSize || target == kEmptyLike) continue;
      if (!look.is_noise(user)) return true;
      pending_.push_back(user);
    }
  }
  return false;
}

}  // namespace spfast
