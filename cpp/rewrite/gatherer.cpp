#include "rewrite/gatherer.h"

#include <algorithm>
#include <string>

#include "base/work.h"
#include "rewrite/size_reads.h"

namespace spfast {

Gatherer::Names Gatherer::collect_names(const Site& site, NodeId value) {
  Names names;
  names.list.push_back({value, 0, false, {}});
  for (uint32_t i = 0; i < names.list.size(); ++i) {
    const NodeId name = names.list[i].node;
    for (const NodeId user : table_.users(name)) {
      SPFAST_WORK(1);
      if (uses_.use_of(user, name) == Use::kLocal) continue;
      if (is_told(site, user, name)) {
        names.sizes.emplace_back(user, name);
        continue;
      }
      if (is_name_of(site, user, name, value)) {
        names.list.push_back({user, i, false, {}});
      } else {
        names.list[i].readers.push_back(user);
        names.list[i].live = true;
      }
    }
  }
  for (auto i = static_cast<uint32_t>(names.list.size()); i-- > 1;) {
    if (names.list[i].live) names.list[names.list[i].source].live = true;
  }
  return names;
}

// What was reduced tells the size, unless it is a shard itself.
bool Gatherer::is_told(const Site& site, NodeId user, NodeId name) {
  if (table_.target(user) != draft_.sym_size) return false;
  const Anchor& anchor = draft_.anchor_of(site);
  if (anchor.input == kNone) return false;
  if (draft_.site_of[draft_.look_of(site).root(anchor.input)] != kNone) return false;
  return draft_.need(site, name) != nullptr && asks_for_size(table_, anchor, user, name);
}

bool Gatherer::is_name_of(const Site& site, NodeId user, NodeId name, NodeId value) const {
  if (sites_.layout.active()) {
    if (sites_.layout.source[user] != kNone) return sites_.layout.source[user] == name;
    if (site.match == kNone || draft_.features_of(value) != 1) return false;
  }
  return LookThrough::source(table_, user, draft_.look_of(site).width()) == name;
}

void Gatherer::gather_outputs(const Site& site, NodeId value) {
  const auto users = table_.users(value);
  const bool inside = std::all_of(users.begin(), users.end(), [&](NodeId user) {
    SPFAST_WORK(1);
    return uses_.use_of(user, value) == Use::kLocal;
  });
  if (inside) return;
  const Names names = collect_names(site, value);
  for (size_t i = 1; i < names.list.size(); ++i) draft_.edits.may_die(names.list[i].node);
  for (const auto& [user, name] : names.sizes) {
    draft_.edits.rewire(user, name, draft_.anchor_of(site).input);
  }
  if (!names.list[0].live) return;
  const std::optional<Reads> reads = collect_reads(site, value, names);
  if (!reads) return;
  const NodeRef flat = gather(site, value, reads->list.front().reader);
  for (const NodeId name : reads->dropped) draft_.gathered.emplace(name, flat);
  NodeRef full = kNone;
  for (const Read& read : reads->list) {
    if (uses_.use_of(read.reader, read.name) == Use::kSliced) continue;
    if (!read.flat && full == kNone) full = unflatten(site, value, flat, read.reader);
    draft_.edits.rewire(read.reader, read.name, read.flat ? flat : full);
  }
}

std::optional<Gatherer::Reads> Gatherer::collect_reads(const Site& site, NodeId value,
                                                       const Names& names) {
  const auto features = static_cast<size_t>(draft_.features_of(value));
  const int64_t stream_width = draft_.look_of(site).width();
  size_t rank = 2;
  int64_t width = stream_width;
  if (site.flat || site.views || site.match == kNone || names.list.size() > 1) {
    const Meta* meta = draft_.need(site, value);
    if (meta == nullptr) return std::nullopt;
    rank = table_.dims(*meta).size();
    const Dim last = rank == 0 ? Dim::of(1) : table_.dims(*meta).back();
    width = last.is_expr() ? -1 : last.raw;
  }
  const bool alike = site.match == kNone || width == stream_width;
  const bool is_flat = rank == features + 1;
  Reads reads;
  std::vector<bool> dropped(names.list.size(), false);
  dropped[0] = true;
  for (uint32_t i = 0; i < names.list.size(); ++i) {
    const Names::Name& name = names.list[i];
    if (!name.live) continue;
    const bool stands_for_value = i == 0 || dropped[name.source];
    if (i > 0) {
      dropped[i] = stands_for_value && alike && is_flat_view(name.node, features);
      if (!dropped[i] && stands_for_value) {
        const NodeId source = names.list[name.source].node;
        const bool flat = is_flat || name.source != 0 || draft_.is_view(name.node);
        reads.list.push_back({name.node, source, flat});
      }
    }
    if (!dropped[i]) continue;
    for (const NodeId reader : name.readers) {
      const bool view =
          draft_.is_view(reader) && table_.args(reader)[0] == Value{Tag::kNode, name.node};
      reads.list.push_back({reader, name.node, i != 0 || is_flat || view});
    }
  }
  for (size_t i = 0; i < names.list.size(); ++i) {
    if (dropped[i]) reads.dropped.push_back(names.list[i].node);
  }
  std::sort(reads.list.begin(), reads.list.end(), [](const Read& a, const Read& b) {
    return std::pair{a.reader, a.name} < std::pair{b.reader, b.name};
  });
  return reads;
}

// The all_gather of a shard, [tokens, features...], as bytes where the collectives take no float8.
NodeRef Gatherer::gather(const Site& site, NodeId value, NodeId before) {
  const CollectiveFamily& family = draft_.families[draft_.anchor_of(site).family];
  const int64_t kept = draft_.features_of(value);
  const auto spec = [&](MetaForm form) { return MetaSpec{form, value, site.token_class, kept}; };
  const auto all_gather = [&](NodeRef shard, MetaForm form) {
    return draft_.collective(site, family.all_gather, family.all_gather_args, shard, before, before,
                             value, spec(form));
  };
  NodeRef shard = draft_.local[value];
  if (!draft_.is_dense(site, value)) {
    shard = draft_.fresh(shard, before, value, spec(MetaForm::kFresh));
  }
  const auto whole = [&](NodeRef rows) {
    return padding_.cut(site, rows, before, value, static_cast<size_t>(kept));
  };
  if (!as_bytes(site, value)) return whole(all_gather(shard, MetaForm::kGathered));
  const NodeRef bytes = draft_.create(draft_.view_dtype, {PlanArg::of(shard), PlanArg::bytes()},
                                      before, value, spec(MetaForm::kLocalBytes));
  const NodeRef flat = all_gather(bytes, MetaForm::kGatheredBytes);
  return whole(draft_.create(draft_.view_dtype, {PlanArg::of(flat), PlanArg::dtype_of(value)},
                             before, value, spec(MetaForm::kGathered)));
}

bool Gatherer::as_bytes(const Site& site, NodeId value) {
  if (!sites_.gather_bytes) return false;
  const Meta* meta = draft_.need(site, value);
  return meta != nullptr && table_.string(meta->dtype).find("float8") != std::string::npos;
}

// A view to [tokens, features...]: what the all_gather yields already.
bool Gatherer::is_flat_view(NodeId node, size_t features) const {
  return draft_.is_view(node) && table_.items(table_.args(node)[1]).size() == features + 1;
}

// Back to the dims that the value had.
NodeRef Gatherer::unflatten(const Site& site, NodeId value, NodeRef flat, NodeId before) {
  const auto sizes = draft_.sizes_of(site, table_.dims(table_.meta(value)), before);
  if (!sizes) {
    draft_.refuse(site, {Reason::Kind::kLeadingDims, value, kNone, 0, 0});
    return flat;
  }
  return draft_.create(draft_.reshape, {PlanArg::of(flat), *sizes}, before, value,
                       {MetaForm::kSame, value, site.token_class, 1});
}

}  // namespace spfast
