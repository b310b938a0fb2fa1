#include "rewrite/rank_rows.h"

#include <algorithm>

#include "base/check.h"

namespace spfast {

NodeRef RankRows::shard_of(const Site& site, const SiteOperand& operand) {
  return draft_.is_local_for(site, operand.root) ? draft_.local[operand.root]
                                                 : own_rows(site, operand);
}

NodeRef RankRows::own_rows(const Site& site, const SiteOperand& operand) {
  const std::pair key{operand.root, site.token_class};
  if (const auto known = rows_.find(key); known != rows_.end()) return known->second;
  const NodeId before = operand.user;
  NodeRef full = draft_.full_value(operand.root);
  const Meta* meta = draft_.need(site, operand.root);
  const size_t features = operand.features;
  const size_t rank = meta == nullptr ? features + 1 : table_.dims(*meta).size();
  const MetaSpec flat{MetaForm::kFlat, operand.root, site.token_class, operand.features};
  if (rank > features + 1 && full == operand.root) {
    const PlanArg sizes = Draft::flat_sizes(table_.dims(*meta).last(features));
    full = draft_.create(draft_.reshape, {PlanArg::of(full), sizes}, before, operand.root, flat);
  }
  full = padding_.fill(site, full, before, operand.root, features);
  const auto [start, end] = row_bounds(site, before);
  const NodeRef slice = draft_.create(
      draft_.slice, {PlanArg::of(full), PlanArg::integer(0), start, end}, before, operand.root,
      {MetaForm::kOwn, operand.root, site.token_class, operand.features});
  if (draft_.effects.writer_of(operand.root) == kNone) rows_.emplace(key, slice);
  return slice;
}

NodeRef RankRows::one_row(const Site& site, const SiteOperand& operand) {
  const std::pair key{operand.name, size_t{operand.features}};
  if (const auto known = one_rows_.find(key); known != one_rows_.end()) return known->second;
  const NodeRef row = reshape_to_one(site, operand, operand.name);
  if (draft_.effects.writer_of(operand.name) == kNone) one_rows_.emplace(key, row);
  return row;
}

NodeRef RankRows::reshape_to_one(const Site& site, const SiteOperand& operand, NodeRef value) {
  std::vector<PlanArg> sizes{PlanArg::integer(1)};
  for (const Dim dim : table_.dims(table_.meta(operand.name)).last(operand.features)) {
    sizes.push_back(PlanArg::integer(dim.raw));
  }
  return draft_.create(draft_.reshape, {PlanArg::of(value), PlanArg::sizes(std::move(sizes))},
                       operand.user, operand.name,
                       {MetaForm::kOne, operand.name, site.token_class, operand.features});
}

// With tp ranks to b samples, tp / b ranks have tokens of the same one.
std::optional<int64_t> RankRows::own_sample(const Site& site, std::span<const Dim> lead,
                                            std::span<const Dim> wanted) const {
  if (lead.size() != wanted.size()) return {};
  const auto is_one = [](Dim dim) { return dim == Dim::of(1); };
  const auto first = std::find_if_not(wanted.begin(), wanted.end(), is_one);
  const auto at = first - wanted.begin();
  if (first == wanted.end() || lead[static_cast<size_t>(at)] != *first || first->is_expr())
    return {};
  if (!std::all_of(lead.begin() + at + 1, lead.end(), is_one)) return {};
  const GroupInfo& group = draft_.group_of(site);
  if (group.size % first->raw != 0 || padding_.needed(site)) return {};
  return group.rank / (group.size / first->raw);
}

NodeRef RankRows::spread_rows(const Site& site, const SiteOperand& operand) {
  const size_t features = operand.features;
  const NodeId before = operand.user;
  const auto dims = table_.dims(table_.meta(operand.name));
  const auto all = table_.dims(table_.meta(operand.user));
  const auto lead = dims.first(dims.size() - features);
  const auto wanted = all.first(all.size() - features);
  std::vector<int64_t> sizes_key;
  for (const Dim dim : wanted) sizes_key.push_back(dim.raw);
  const std::tuple key{operand.name, site.token_class, std::move(sizes_key)};
  if (const auto known = spread_.find(key); known != spread_.end()) return known->second;
  if (const auto sample = own_sample(site, lead, wanted)) {
    const auto dim =
        std::find_if(lead.begin(), lead.end(), [](Dim one) { return one != Dim::of(1); });
    const NodeRef own =
        draft_.create(draft_.slice,
                      {PlanArg::of(operand.name), PlanArg::integer(dim - lead.begin()),
                       PlanArg::integer(*sample), PlanArg::integer(*sample + 1)},
                      before, operand.name,
                      {MetaForm::kSpread, operand.name, site.token_class, operand.features});
    return spread_.emplace(key, reshape_to_one(site, operand, own)).first->second;
  }
  std::vector<PlanArg> sizes;
  const size_t more = wanted.size() - lead.size();
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (i >= more && lead[i - more] == wanted[i]) {
      sizes.push_back(PlanArg::integer(-1));  // as it is
    } else if (const auto size = draft_.size_of(site, wanted[i], before)) {
      sizes.push_back(*size);
    } else {
      draft_.refuse(site, {Reason::Kind::kLeadingDims, operand.user, kNone, 0, 0});
      return operand.name;
    }
  }
  sizes.insert(sizes.end(), features, PlanArg::integer(-1));
  const auto flat_sizes = Draft::flat_sizes(dims.last(features));
  const auto spec = [&](MetaForm form) {
    return MetaSpec{form, operand.name, site.token_class, operand.features};
  };
  const NodeRef wide =
      draft_.create(draft_.expand, {PlanArg::of(operand.name), PlanArg::sizes(std::move(sizes))},
                    before, operand.name, spec(MetaForm::kSpread));
  const NodeRef flat = draft_.create(draft_.reshape, {PlanArg::of(wide), flat_sizes}, before,
                                     operand.name, spec(MetaForm::kFlat));
  const NodeRef all_rows = padding_.fill(site, flat, before, operand.name, features);
  const auto [start, end] = row_bounds(site, before);
  const NodeRef rows =
      draft_.create(draft_.slice, {PlanArg::of(all_rows), PlanArg::integer(0), start, end}, before,
                    operand.name, spec(MetaForm::kOwn));
  return spread_.emplace(key, rows).first->second;
}

std::pair<PlanArg, PlanArg> RankRows::row_bounds(const Site& site, NodeId before) {
  const GroupInfo& group = draft_.group_of(site);
  const PlanArg size = local_size(site, before);
  if (size.kind == PlanArg::Kind::kInt) {
    return {PlanArg::integer(group.rank * size.value),
            PlanArg::integer((group.rank + 1) * size.value)};
  }
  if (const auto known = bounds_.find(site.token_class); known != bounds_.end()) {
    return known->second;
  }
  // Every rank makes the same nodes, names included: 0 and 1 are factors like any other.
  const auto scaled = [&](int64_t factor) {
    return PlanArg::of(draft_.create(
        draft_.mul, {size, PlanArg::integer(factor)}, before, draft_.anchor_of(site).all_reduce,
        {MetaForm::kScaled, draft_.anchor_of(site).all_reduce, site.token_class, factor}));
  };
  const PlanArg start = scaled(group.rank);
  const PlanArg end = scaled(group.rank + 1);
  return bounds_.emplace(site.token_class, std::pair{start, end}).first->second;
}

PlanArg RankRows::local_size(const Site& site, NodeId before) {
  if (padding_.needed(site)) return padding_.local(site);
  const Dim tokens = sites_.classes[site.token_class].tokens;
  if (!tokens.is_expr()) return PlanArg::integer(tokens.raw / draft_.group_of(site).size);
  const auto known = sizes_.find(site.token_class);
  if (known != sizes_.end()) return known->second;
  const Anchor& anchor = draft_.anchor_of(site);
  // A row-wise region may read rows before its own all_reduce: any shard of the class will do then.
  NodeRef shard = draft_.local[anchor.reduced];
  if (shard == kNone) {
    const auto other = draft_.scattered.find(site.token_class);
    SPFAST_CHECK(other != draft_.scattered.end());
    shard = other->second;
  }
  const PlanArg size = PlanArg::of(draft_.create(
      draft_.sym_size, {PlanArg::of(shard), PlanArg::integer(0)}, before, anchor.all_reduce,
      {MetaForm::kLocalSize, anchor.all_reduce, site.token_class, 1}));
  sizes_.emplace(site.token_class, size);
  return size;
}

}  // namespace spfast
