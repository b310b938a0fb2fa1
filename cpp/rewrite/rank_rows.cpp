#include "rewrite/rank_rows.h"

#include <algorithm>

#include "base/check.h"

namespace spfast {

NodeRef RankRows::shard_of(const Site& site, const SiteOperand& operand) {
  return builder_.is_local_for(site, operand.root) ? builder_.local[operand.root]
                                                   : own_rows(site, operand);
}

NodeRef RankRows::own_rows(const Site& site, const SiteOperand& operand) {
  const std::pair key{operand.root, site.token_class};
  if (const auto known = rows_.find(key); known != rows_.end()) return known->second;
  const NodeId before = operand.user;
  NodeRef full = builder_.full_value(operand.root);
  const Meta* meta = builder_.need(site, operand.root);
  const size_t features = operand.features;
  const size_t rank = meta == nullptr ? features + 1 : table_.dims(*meta).size();
  const MetaSpec flat{MetaForm::kFlat, operand.root, site.token_class, operand.features};
  if (rank > features + 1 && full == operand.root) {
    const PlanArg sizes = PlanBuilder::flat_sizes(table_.dims(*meta).last(features));
    full =
        builder_.create(builder_.reshape, {PlanArg::of(full), sizes}, before, operand.root, flat);
  }
  full = padding_.fill(site, full, before, operand.root, features);
  const auto [start, end] = row_bounds(site, before);
  const NodeRef slice = builder_.create(
      builder_.slice, {PlanArg::of(full), PlanArg::integer(0), start, end}, before, operand.root,
      {MetaForm::kOwn, operand.root, site.token_class, operand.features});
  if (builder_.effects.writer_of(operand.root) == kNone) rows_.emplace(key, slice);
  return slice;
}

NodeRef RankRows::one_row(const Site& site, const SiteOperand& operand) {
  const std::pair key{operand.alias, size_t{operand.features}};
  if (const auto known = one_rows_.find(key); known != one_rows_.end()) return known->second;
  const NodeRef row = reshape_to_one(site, operand, operand.alias);
  if (builder_.effects.writer_of(operand.alias) == kNone) one_rows_.emplace(key, row);
  return row;
}

NodeRef RankRows::reshape_to_one(const Site& site, const SiteOperand& operand, NodeRef value) {
  std::vector<PlanArg> sizes{PlanArg::integer(1)};
  for (const Dim dim : table_.dims(table_.meta(operand.alias)).last(operand.features)) {
    sizes.push_back(PlanArg::integer(dim.raw));
  }
  return builder_.create(builder_.reshape, {PlanArg::of(value), PlanArg::sizes(std::move(sizes))},
                         operand.user, operand.alias,
                         {MetaForm::kOne, operand.alias, site.token_class, operand.features});
}

// With b samples on tp ranks, tp / b ranks have tokens of the same sample.
std::optional<int64_t> RankRows::own_sample(const Site& site, std::span<const Dim> lead,
                                            std::span<const Dim> wanted) const {
  if (lead.size() != wanted.size()) return {};
  const auto is_one = [](Dim dim) { return dim == Dim::of(1); };
  const auto first = std::find_if_not(wanted.begin(), wanted.end(), is_one);
  const auto at = first - wanted.begin();
  if (first == wanted.end() || lead[static_cast<size_t>(at)] != *first || first->is_expr())
    return {};
  if (!std::all_of(lead.begin() + at + 1, lead.end(), is_one)) return {};
  const GroupInfo& group = builder_.group_of(site);
  if (group.size % first->raw != 0 || padding_.needed(site)) return {};
  return group.rank / (group.size / first->raw);
}

NodeRef RankRows::spread_rows(const Site& site, const SiteOperand& operand) {
  const size_t features = operand.features;
  const NodeId before = operand.user;
  const auto dims = table_.dims(table_.meta(operand.alias));
  const auto all = table_.dims(table_.meta(operand.user));
  const auto lead = dims.first(dims.size() - features);
  const auto wanted = all.first(all.size() - features);
  std::vector<int64_t> sizes_key;
  for (const Dim dim : wanted) sizes_key.push_back(dim.raw);
  const std::tuple key{operand.alias, site.token_class, std::move(sizes_key)};
  if (const auto known = spread_.find(key); known != spread_.end()) return known->second;
  if (const auto sample = own_sample(site, lead, wanted)) {
    const auto dim =
        std::find_if(lead.begin(), lead.end(), [](Dim one) { return one != Dim::of(1); });
    const NodeRef own =
        builder_.create(builder_.slice,
                        {PlanArg::of(operand.alias), PlanArg::integer(dim - lead.begin()),
                         PlanArg::integer(*sample), PlanArg::integer(*sample + 1)},
                        before, operand.alias,
                        {MetaForm::kSpread, operand.alias, site.token_class, operand.features});
    return spread_.emplace(key, reshape_to_one(site, operand, own)).first->second;
  }
  std::vector<PlanArg> sizes;
  const size_t more = wanted.size() - lead.size();
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (i >= more && lead[i - more] == wanted[i]) {
      sizes.push_back(PlanArg::integer(-1));  // as it is
    } else if (const auto size = builder_.size_of(site, wanted[i], before)) {
      sizes.push_back(*size);
    } else {
      builder_.refuse(site, {Reason::Kind::kLeadingDims, operand.user, kNone, 0, 0});
      return operand.alias;
    }
  }
  sizes.insert(sizes.end(), features, PlanArg::integer(-1));
  const auto flat_sizes = PlanBuilder::flat_sizes(dims.last(features));
  const auto spec = [&](MetaForm form) {
    return MetaSpec{form, operand.alias, site.token_class, operand.features};
  };
  const NodeRef wide = builder_.create(
      builder_.expand, {PlanArg::of(operand.alias), PlanArg::sizes(std::move(sizes))}, before,
      operand.alias, spec(MetaForm::kSpread));
  const NodeRef flat = builder_.create(builder_.reshape, {PlanArg::of(wide), flat_sizes}, before,
                                       operand.alias, spec(MetaForm::kFlat));
  const NodeRef all_rows = padding_.fill(site, flat, before, operand.alias, features);
  const auto [start, end] = row_bounds(site, before);
  const NodeRef rows =
      builder_.create(builder_.slice, {PlanArg::of(all_rows), PlanArg::integer(0), start, end},
                      before, operand.alias, spec(MetaForm::kOwn));
  return spread_.emplace(key, rows).first->second;
}

std::pair<PlanArg, PlanArg> RankRows::row_bounds(const Site& site, NodeId before) {
  const GroupInfo& group = builder_.group_of(site);
  const PlanArg size = local_size(site, before);
  if (size.kind == PlanArg::Kind::kInt) {
    return {PlanArg::integer(group.rank * size.value),
            PlanArg::integer((group.rank + 1) * size.value)};
  }
  if (const auto known = bounds_.find(site.token_class); known != bounds_.end()) {
    return known->second;
  }
  // Every rank makes the same nodes with the same names. So a factor of 0 or 1 is not left out.
  const auto scaled = [&](int64_t factor) {
    return PlanArg::of(builder_.create(
        builder_.mul, {size, PlanArg::integer(factor)}, before, builder_.anchor_of(site).all_reduce,
        {MetaForm::kScaled, builder_.anchor_of(site).all_reduce, site.token_class, factor}));
  };
  const PlanArg start = scaled(group.rank);
  const PlanArg end = scaled(group.rank + 1);
  return bounds_.emplace(site.token_class, std::pair{start, end}).first->second;
}

PlanArg RankRows::local_size(const Site& site, NodeId before) {
  if (padding_.needed(site)) return padding_.local(site);
  const Dim tokens = sites_.classes[site.token_class].tokens;
  if (!tokens.is_expr()) return PlanArg::integer(tokens.raw / builder_.group_of(site).size);
  const auto known = sizes_.find(site.token_class);
  if (known != sizes_.end()) return known->second;
  const Anchor& anchor = builder_.anchor_of(site);
  // A row-wise region may read rows before its own all_reduce. Then any shard of the class tells
  // the size.
  NodeRef shard = builder_.local[anchor.reduced];
  if (shard == kNone) {
    const auto other = builder_.scattered.find(site.token_class);
    SPFAST_CHECK(other != builder_.scattered.end());
    shard = other->second;
  }
  const PlanArg size = PlanArg::of(builder_.create(
      builder_.sym_size, {PlanArg::of(shard), PlanArg::integer(0)}, before, anchor.all_reduce,
      {MetaForm::kLocalSize, anchor.all_reduce, site.token_class, 1}));
  sizes_.emplace(site.token_class, size);
  return size;
}

}  // namespace spfast
