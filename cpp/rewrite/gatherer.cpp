#include "rewrite/gatherer.h"

#include <algorithm>
#include <string>

#include "base/work.h"
#include "rewrite/size_reads.h"

namespace spfast {

Gatherer::Aliases Gatherer::collect_aliases(const Site& site, NodeId value) {
  Aliases aliases;
  aliases.list.push_back({value, 0, false, {}});
  for (uint32_t i = 0; i < aliases.list.size(); ++i) {
    const NodeId alias = aliases.list[i].node;
    for (const NodeId user : table_.users(alias)) {
      SPFAST_WORK(1);
      if (uses_.use_of(user, alias) == Use::kLocal) continue;
      if (is_told(site, user, alias)) {
        aliases.sizes.emplace_back(user, alias);
        continue;
      }
      if (is_alias_of(site, user, alias, value)) {
        aliases.list.push_back({user, i, false, {}});
      } else {
        aliases.list[i].readers.push_back(user);
        aliases.list[i].live = true;
      }
    }
  }
  for (auto i = static_cast<uint32_t>(aliases.list.size()); i-- > 1;) {
    if (aliases.list[i].live) aliases.list[aliases.list[i].source].live = true;
  }
  return aliases;
}

// What was reduced tells the size, unless it is a shard itself.
bool Gatherer::is_told(const Site& site, NodeId user, NodeId alias) {
  if (table_.target(user) != builder_.sym_size) return false;
  const Anchor& anchor = builder_.anchor_of(site);
  if (anchor.input == kNone) return false;
  if (builder_.site_of[builder_.look_of(site).root(anchor.input)] != kNone) return false;
  return builder_.need(site, alias) != nullptr && asks_for_size(table_, anchor, user, alias);
}

bool Gatherer::is_alias_of(const Site& site, NodeId user, NodeId alias, NodeId value) const {
  if (sites_.layout.active()) {
    if (sites_.layout.source[user] != kNone) return sites_.layout.source[user] == alias;
    if (site.match == kNone || builder_.features_of(value) != 1) return false;
  }
  return LookThrough::source(table_, user, builder_.look_of(site).width()) == alias;
}

void Gatherer::gather_outputs(const Site& site, NodeId value) {
  const auto users = table_.users(value);
  const bool inside = std::all_of(users.begin(), users.end(), [&](NodeId user) {
    SPFAST_WORK(1);
    return uses_.use_of(user, value) == Use::kLocal;
  });
  if (inside) return;
  const Aliases aliases = collect_aliases(site, value);
  for (size_t i = 1; i < aliases.list.size(); ++i)
    builder_.edits.erase_if_unused(aliases.list[i].node);
  for (const auto& [user, alias] : aliases.sizes) {
    builder_.edits.rewire(user, alias, builder_.anchor_of(site).input);
  }
  if (!aliases.list[0].live) return;
  const std::optional<Reads> reads = collect_reads(site, value, aliases);
  if (!reads) return;
  const NodeRef flat = gather(site, value, reads->list.front().reader);
  for (const NodeId alias : reads->dropped) builder_.gathered.emplace(alias, flat);
  NodeRef full = kNone;
  for (const Read& read : reads->list) {
    if (uses_.use_of(read.reader, read.alias) == Use::kSliced) continue;
    if (!read.flat && full == kNone) full = unflatten(site, value, flat, read.reader);
    builder_.edits.rewire(read.reader, read.alias, read.flat ? flat : full);
  }
}

std::optional<Gatherer::Reads> Gatherer::collect_reads(const Site& site, NodeId value,
                                                       const Aliases& aliases) {
  const auto features = static_cast<size_t>(builder_.features_of(value));
  const int64_t stream_width = builder_.look_of(site).width();
  size_t rank = 2;
  int64_t width = stream_width;
  if (site.flat || site.views || site.match == kNone || aliases.list.size() > 1) {
    const Meta* meta = builder_.need(site, value);
    if (meta == nullptr) return std::nullopt;
    rank = table_.dims(*meta).size();
    const Dim last = rank == 0 ? Dim::of(1) : table_.dims(*meta).back();
    width = last.is_expr() ? -1 : last.raw;
  }
  const bool alike = site.match == kNone || width == stream_width;
  const bool is_flat = rank == features + 1;
  Reads reads;
  std::vector<bool> dropped(aliases.list.size(), false);
  dropped[0] = true;
  for (uint32_t i = 0; i < aliases.list.size(); ++i) {
    const Aliases::Alias& alias = aliases.list[i];
    if (!alias.live) continue;
    const bool stands_for_value = i == 0 || dropped[alias.source];
    if (i > 0) {
      dropped[i] = stands_for_value && alike && is_flat_view(alias.node, features);
      if (!dropped[i] && stands_for_value) {
        const NodeId source = aliases.list[alias.source].node;
        const bool flat = is_flat || alias.source != 0 || builder_.is_view(alias.node);
        reads.list.push_back({alias.node, source, flat});
      }
    }
    if (!dropped[i]) continue;
    for (const NodeId reader : alias.readers) {
      const bool view =
          builder_.is_view(reader) && table_.args(reader)[0] == Argument{Tag::kNode, alias.node};
      reads.list.push_back({reader, alias.node, i != 0 || is_flat || view});
    }
  }
  for (size_t i = 0; i < aliases.list.size(); ++i) {
    if (dropped[i]) reads.dropped.push_back(aliases.list[i].node);
  }
  std::sort(reads.list.begin(), reads.list.end(), [](const Read& a, const Read& b) {
    return std::pair{a.reader, a.alias} < std::pair{b.reader, b.alias};
  });
  return reads;
}

// The all_gather of a shard, [tokens, features...], as bytes where the collectives take no float8.
NodeRef Gatherer::gather(const Site& site, NodeId value, NodeId before) {
  const CollectiveFamily& family = builder_.families[builder_.anchor_of(site).family];
  const int64_t kept = builder_.features_of(value);
  const auto spec = [&](MetaForm form) { return MetaSpec{form, value, site.token_class, kept}; };
  const auto all_gather = [&](NodeRef shard, MetaForm form) {
    return builder_.collective(site, family.all_gather, family.all_gather_args, shard, before,
                               before, value, spec(form));
  };
  NodeRef shard = builder_.local[value];
  if (!builder_.is_dense(site, value)) {
    shard = builder_.fresh(shard, before, value, spec(MetaForm::kFresh));
  }
  const auto whole = [&](NodeRef rows) {
    return padding_.cut(site, rows, before, value, static_cast<size_t>(kept));
  };
  if (!as_bytes(site, value)) return whole(all_gather(shard, MetaForm::kGathered));
  const NodeRef bytes = builder_.create(builder_.view_dtype, {PlanArg::of(shard), PlanArg::bytes()},
                                        before, value, spec(MetaForm::kLocalBytes));
  const NodeRef flat = all_gather(bytes, MetaForm::kGatheredBytes);
  return whole(builder_.create(builder_.view_dtype, {PlanArg::of(flat), PlanArg::dtype_of(value)},
                               before, value, spec(MetaForm::kGathered)));
}

bool Gatherer::as_bytes(const Site& site, NodeId value) {
  if (!sites_.gather_bytes) return false;
  const Meta* meta = builder_.need(site, value);
  return meta != nullptr && table_.string(meta->dtype).find("float8") != std::string::npos;
}

// A view to [tokens, features...]: what the all_gather yields already.
bool Gatherer::is_flat_view(NodeId node, size_t features) const {
  return builder_.is_view(node) && table_.items(table_.args(node)[1]).size() == features + 1;
}

// Back to the dims that the value had.
NodeRef Gatherer::unflatten(const Site& site, NodeId value, NodeRef flat, NodeId before) {
  const auto sizes = builder_.sizes_of(site, table_.dims(table_.meta(value)), before);
  if (!sizes) {
    builder_.refuse(site, {Reason::Kind::kLeadingDims, value, kNone, 0, 0});
    return flat;
  }
  return builder_.create(builder_.reshape, {PlanArg::of(flat), *sizes}, before, value,
                         {MetaForm::kSame, value, site.token_class, 1});
}

}  // namespace spfast
