#include "rewrite/padding.h"

#include "base/check.h"

namespace spfast {

NodeRef Padding::fill(const Site& site, NodeRef value, NodeId before, NodeId like,
                      size_t features) {
  if (!needed(site)) return value;
  // Two numbers a dim, the last dim first: how many before it, and how many after it.
  std::vector<PlanArg> amounts(2 * features + 1, PlanArg::integer(0));
  amounts.push_back(numbers(site, value, before).missing);
  return builder_.create(
      builder_.pad, {PlanArg::of(value), PlanArg::sizes(std::move(amounts))}, before, like,
      {MetaForm::kPadded, like, site.token_class, static_cast<int64_t>(features)});
}

NodeRef Padding::cut(const Site& site, NodeRef rows, NodeId before, NodeId like, size_t features) {
  if (!needed(site)) return rows;
  return builder_.create(
      builder_.slice,
      {PlanArg::of(rows), PlanArg::integer(0), PlanArg::integer(0), settled(site).tokens}, before,
      like, {MetaForm::kCut, like, site.token_class, static_cast<int64_t>(features)});
}

PlanArg Padding::local(const Site& site) const { return settled(site).local; }

const Padding::Numbers& Padding::numbers(const Site& site, NodeRef value, NodeId before) {
  const auto found = numbers_.find(site.token_class);
  if (found != numbers_.end()) return found->second;
  const bool is_known = !class_of(site).tokens.is_expr();
  return numbers_.emplace(site.token_class, is_known ? known(site) : reckon(site, value, before))
      .first->second;
}

Padding::Numbers Padding::known(const Site& site) const {
  const int64_t tokens = class_of(site).tokens.raw;
  const int64_t ranks = builder_.group_of(site).size;
  const int64_t over = tokens % ranks;
  return {PlanArg::integer(tokens), PlanArg::integer(tokens / ranks + (over == 0 ? 0 : 1)),
          PlanArg::integer(over == 0 ? 0 : ranks - over)};
}

// A symbolic number is computed where the first value of the class is filled up. Every shard comes
// later.
Padding::Numbers Padding::settled(const Site& site) const {
  if (!class_of(site).tokens.is_expr()) return known(site);
  const auto found = numbers_.find(site.token_class);
  SPFAST_CHECK(found != numbers_.end());
  return found->second;
}

// local = (tokens + ranks - 1) // ranks; missing = ranks * local - tokens. Written so, torch sees
// that tokens + missing is a multiple of ranks.
Padding::Numbers Padding::reckon(const Site& site, NodeRef value, NodeId before) {
  const NodeId like = builder_.anchor_of(site).all_reduce;
  const int64_t ranks = builder_.group_of(site).size;
  const auto number = [&](TargetId target, PlanArg left, PlanArg right, MetaForm form,
                          int64_t factor) {
    return PlanArg::of(builder_.create(target, {std::move(left), std::move(right)}, before, like,
                                       {form, like, site.token_class, factor}));
  };
  const PlanArg tokens =
      number(builder_.sym_size, PlanArg::of(value), PlanArg::integer(0), MetaForm::kTokens, 0);
  const PlanArg more =
      number(builder_.add, tokens, PlanArg::integer(ranks - 1), MetaForm::kTokens, ranks - 1);
  const PlanArg local =
      number(builder_.floordiv, more, PlanArg::integer(ranks), MetaForm::kLocalSize, 1);
  const PlanArg rows =
      number(builder_.mul, local, PlanArg::integer(ranks), MetaForm::kScaled, ranks);
  return {tokens, local, number(builder_.sub, rows, tokens, MetaForm::kMissing, 1)};
}

}  // namespace spfast
