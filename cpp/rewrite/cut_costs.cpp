#include "rewrite/cut_costs.h"

#include <algorithm>

#include "rewrite/row_shapes.h"

namespace spfast {
namespace {

// A small stream stands for larger ones: it is an example, or a test. It is reckoned as 8,192
// tokens of 4,096 features in two bytes each, a prefill for which the rewrite pays.
constexpr int64_t kWorth = int64_t{64} << 20;
// What a symbolic width is reckoned as.
constexpr int64_t kWidth = 4096;
// An all_reduce of fewer numbers a token is not worth two collectives that move the same bytes.
constexpr int64_t kFew = 2;
// Memory is read as much faster than the ranks exchange: about 4 TB/s (an estimate) to the 256 GB/s
// that two H200 exchanged.
constexpr int64_t kMemory = 16;

}  // namespace

CutCosts::CutCosts(const NodeTable& table, const MatchResult& matches, const Sites& sites,
                   Costs costs)
    : table_(table), matches_(matches), sites_(sites), collective_(costs.collective) {
  for (const Anchor& anchor : matches.anchors) {
    if (anchor.call != anchor.all_reduce) ++parts_[anchor.call];
  }
}

int64_t CutCosts::calls(const Anchor& anchor, int64_t fixed) const {
  const auto several = parts_.find(anchor.call);
  const int64_t parts = several == parts_.end() ? 1 : several->second;
  return (2 - parts) * fixed / parts;
}

int64_t CutCosts::bytes_of(const Meta& meta, size_t features) const {
  int64_t elements = 1;
  for (const Dim dim : table_.dims(meta).last(features)) {
    if (__builtin_mul_overflow(elements, dim.is_expr() ? kWidth : dim.raw, &elements)) return most_;
  }
  const int64_t each = dtype_bytes(table_.string(meta.dtype)) * kBytes;
  return std::min(elements, most_ / each) * each;
}

int64_t CutCosts::bytes_of(const Anchor& anchor) const {
  return bytes_of(table_.meta(anchor.all_reduce), 1);
}

bool CutCosts::is_few(const Anchor& anchor) const {
  const int64_t elements = element_count(table_.dims(table_.meta(anchor.all_reduce)).last(1));
  return elements >= 0 && elements < kFew;
}

// An all_reduce sends what it is given twice.
int64_t CutCosts::part(const TokenSum& sum, std::span<const uint32_t> of_class) const {
  return 2 * bytes_of(table_.meta(sum.alias), sum.features) / sharers(sum.token_class, of_class);
}

// A rank reads its own rows alone.
int64_t CutCosts::saved_by(const TokenSum& sum) const {
  const int64_t ranks = sites_.classes[sum.token_class].ranks;
  return bytes_of(table_.meta(sum.alias), sum.features) / ranks * (ranks - 1) / kMemory;
}

// How many tokens share what a collective costs beside its bytes.
int64_t CutCosts::sharers(uint32_t token_class, std::span<const uint32_t> of_class) const {
  int64_t width = 1;
  for (const uint32_t site : of_class) {
    width = std::max(width, bytes_of(matches_.anchors[sites_.sites[site].anchor]) / kBytes);
  }
  const Dim tokens = sites_.classes[token_class].tokens;
  return std::max({kWorth / width, tokens.is_expr() ? 1 : tokens.raw, int64_t{1}});
}

int64_t CutCosts::fixed(uint32_t token_class, std::span<const uint32_t> of_class) const {
  const auto among = static_cast<double>(sharers(token_class, of_class));
  const double share = static_cast<double>(collective_) / among;
  const double most = static_cast<double>(most_ / kBytes);
  const double cost = std::min(share, most) * static_cast<double>(kBytes);
  // At least 1, so that of cuts with the same bytes the one with fewer collectives is taken.
  return std::max(static_cast<int64_t>(cost), int64_t{1});
}

}  // namespace spfast
