// What the ways to cut cost: to gather a value, to leave an all_reduce, one more collective.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>

#include "match/match.h"
#include "rewrite/costs.h"
#include "rewrite/sites.h"

namespace spfast {

class CutCosts {
 public:
  // Costs are told for each token, in 1/1024 bytes.
  static constexpr int64_t kBytes = 1024;

  CutCosts(const NodeTable& table, const MatchResult& matches, const Sites& sites, Costs costs);

  // The most that a single cost may be. So all costs together stay below that of an edge that is
  // never cut.
  void limit(int64_t most) { most_ = most; }
  // What it moves to gather a value whose last `features` dims belong to one token.
  [[nodiscard]] int64_t bytes_of(const Meta& meta, size_t features) const;
  // What a sum over tokens moves as the sum of the ranks' parts, and what computing it from shards
  // saves: both of a class of tokens with the sites that are rewritten in it.
  [[nodiscard]] int64_t part(const TokenSum& sum, std::span<const uint32_t> of_class) const;
  [[nodiscard]] int64_t saved_by(const TokenSum& sum) const;
  // What an all_reduce that stays moves more than its reduce_scatter would.
  [[nodiscard]] int64_t bytes_of(const Anchor& anchor) const;
  // What the calls that an all_reduce makes cost more than its reduce_scatter's, `fixed` each: an
  // all_reduce makes two, a reduce_scatter one. Of several tensors reduced in one call each has its
  // share of two, and a reduce_scatter of its own: the difference may be negative.
  [[nodiscard]] int64_t calls(const Anchor& anchor, int64_t fixed) const;
  // Whether an all_reduce is of so few numbers that it may as well stay.
  [[nodiscard]] bool is_few(const Anchor& anchor) const;
  // What a collective costs beside its bytes, as each token's share of it; of a class of tokens
  // with the sites that are rewritten in it.
  [[nodiscard]] int64_t fixed(uint32_t token_class, std::span<const uint32_t> of_class) const;

 private:
  [[nodiscard]] int64_t sharers(uint32_t token_class, std::span<const uint32_t> of_class) const;

  const NodeTable& table_;
  const MatchResult& matches_;
  const Sites& sites_;
  int64_t collective_;
  int64_t most_ = 0;
  std::unordered_map<NodeId, int64_t> parts_;  // of a call of several tensors: those that are read
};

}  // namespace spfast
