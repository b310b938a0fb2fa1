#include "rewrite/planner.h"

#include <algorithm>
#include <map>
#include <unordered_set>

#include "base/check.h"
#include "base/work.h"
#include "rewrite/edit_list.h"
#include "table/targets.h"

namespace spfast {
namespace {

using Form = MetaSpec::Form;

// A value of a site, and everything outside sites that reads it.
struct Names {
  struct Name {
    NodeId node;
    uint32_t source;              // index of the name that it is a view or copy of
    bool live = false;            // somebody outside the sites reads it or a name of it
    std::vector<NodeId> readers;  // outside the sites
  };
  std::vector<Name> list;                        // [0] is the value itself; sources come first
  std::vector<std::pair<NodeId, NodeId>> sizes;  // (user, name): asks for a size of it
};

class Planner {
 public:
  Planner(const NodeTable& table, const ProgramSet& programs, const MatchResult& matches,
          std::span<const CollectiveFamily> families, std::span<const GroupInfo> groups,
          const Sites& sites, const Effects& effects, std::vector<NodeId>& missing)
      : table_(table),
        programs_(programs),
        matches_(matches),
        families_(families),
        groups_(groups),
        sites_(sites),
        effects_(effects),
        missing_(missing),
        edits_(table, plan_),
        site_of_(table.size(), kNone),
        local_(table.size(), kNone) {
    plan_.classes = sites.classes;
  }

  Plan run() {
    for (uint32_t i = 0; i < sites_.sites.size(); ++i) {
      if (sites_.sites[i].reason.empty()) claim_values(i);
    }
    for (const Site& site : sites_.sites) {
      if (site.reason.empty()) find_buffer_uses(site);
    }
    for (const Turn& turn : turns()) rewrite(sites_.sites[turn.site], turn);
    edits_.finish();
    return std::move(plan_);
  }

  [[nodiscard]] const std::vector<std::pair<uint32_t, NodeId>>& unknown() const { return unknown_; }

 private:
  // One value of a site, in graph order: what is created for it may be read by later ones.
  struct Turn {
    NodeId node;
    uint32_t site;
    uint32_t operands;  // where the node's operands begin among the site's
  };

  [[nodiscard]] std::vector<Turn> turns() const {
    std::vector<Turn> all;
    for (uint32_t i = 0; i < sites_.sites.size(); ++i) {
      const Site& site = sites_.sites[i];
      if (!site.reason.empty()) continue;
      if (site.scatters) all.push_back({anchor_of(site).all_reduce, i, 0});
      uint32_t operand = 0;
      for (const NodeId node : site.interior) {
        all.push_back({node, i, operand});
        while (operand < site.operands.size() && site.operands[operand].user == node) ++operand;
      }
      SPFAST_CHECK(operand == site.operands.size());
    }
    std::sort(all.begin(), all.end(), [](const Turn& a, const Turn& b) { return a.node < b.node; });
    return all;
  }

  [[nodiscard]] const Anchor& anchor_of(const Site& site) const {
    return matches_.anchors[site.anchor];
  }
  // The value behind a node's views and copies.
  [[nodiscard]] NodeId root_of(const Site& site, NodeId node) const {
    return sites_.layout.root(look_of(site).root(node));
  }
  [[nodiscard]] LookThrough look_of(const Site& site) const {
    return matches_.look(table_.dims(table_.meta(anchor_of(site).all_reduce)).back().raw);
  }
  [[nodiscard]] static uint64_t use_key(NodeId user, NodeId name) {
    return (uint64_t{user} << 32) | name;
  }

  void claim_values(uint32_t index) {
    const Site& site = sites_.sites[index];
    if (site.scatters) site_of_[anchor_of(site).reduced] = index;
    for (const NodeId node : site.interior) {
      site_of_[node] = index;
      local_[node] = node;
    }
  }

  // Sharded over the same rows of the same group, so that a site of this class may read it as it
  // is.
  [[nodiscard]] bool is_local_for(const Site& site, NodeId root) const {
    return site_of_[root] != kNone && sites_.sites[site_of_[root]].token_class == site.token_class;
  }

  // How a node reads a value under this name: the shard, the rank's slice of it, or in full.
  enum class Use : uint8_t { kFull, kLocal, kSliced };
  [[nodiscard]] Use use_of(NodeId user, NodeId name) const {
    if (const uint32_t index = site_of_[user]; index != kNone) {
      const Site& site = sites_.sites[index];
      // Operands stand in the order of their users.
      auto at = std::lower_bound(
          site.operands.begin(), site.operands.end(), user,
          [](const SiteOperand& operand, NodeId wanted) { return operand.user < wanted; });
      for (; at != site.operands.end() && at->user == user; ++at) {
        const SiteOperand& operand = *at;
        if (operand.name != name) continue;
        if (operand.kind == SiteOperand::Kind::kBuffer) return Use::kFull;
        if (operand.kind == SiteOperand::Kind::kStream) return Use::kLocal;
        return is_local_for(site, operand.root) ? Use::kLocal : Use::kSliced;
      }
    }
    return buffer_uses_.contains(use_key(user, name)) ? Use::kLocal : Use::kFull;
  }

  [[nodiscard]] bool only_fills(NodeId user, NodeId buffer) const {
    if (site_of_[user] == kNone) return false;
    const auto& operands = sites_.sites[site_of_[user]].operands;
    return std::any_of(operands.begin(), operands.end(), [&](const SiteOperand& operand) {
      return operand.kind == SiteOperand::Kind::kBuffer && operand.user == user &&
             operand.name == buffer;
    });
  }

  // empty_like(a value of the stream) is made anew, like the shard; the old one stays as it is
  // where others read it too.
  void find_buffer_uses(const Site& site) {
    for (const SiteOperand& operand : site.operands) {
      if (operand.kind != SiteOperand::Kind::kBuffer) continue;
      const auto args = table_.args(operand.name);
      const auto users = table_.users(operand.name);
      const bool goes = std::all_of(users.begin(), users.end(),
                                    [&](NodeId user) { return only_fills(user, operand.name); });
      if (args[0].is_node() && goes) buffer_uses_.insert(use_key(operand.name, args[0].payload));
    }
  }

  void rewrite(const Site& site, const Turn& turn) {
    const Anchor& anchor = anchor_of(site);
    if (turn.node == anchor.all_reduce) {
      scatter(site);
      gather_outputs(site, anchor.reduced);
      edits_.may_die(anchor.reduced);
      edits_.may_die(anchor.all_reduce);
      return;
    }
    const NodeId node = turn.node;
    const auto operands = std::span(site.operands).subspan(turn.operands);
    if (sites_.layout.active() && sites_.layout.reshapes[node]) {
      reshape_shard(site, node, operands.front());
    } else {
      for (const SiteOperand& operand : operands) {
        if (operand.user != node) break;
        localize(site, operand);
      }
      edits_.resize(node, {Form::kLocal, node, site.token_class, features_of(node)});
      if (site.match == kNone) {
        fix_row_dims(node);
      } else if (site.flat || site.views) {
        fix_dims(site, node);
      }
    }
    if (!is_tuple(node)) gather_outputs(site, node);
  }

  [[nodiscard]] int64_t features_of(NodeId node) const { return sites_.layout.features_of(node); }

  // --- collectives ------------------------------------------------------------------------------

  [[nodiscard]] std::vector<PlanArg> collective_args(const std::vector<CollectiveArg>& slots,
                                                     const Site& site, NodeRef input) const {
    const Anchor& anchor = anchor_of(site);
    const CollectiveFamily& family = families_[anchor.family];
    std::vector<PlanArg> args;
    args.reserve(slots.size());
    for (const CollectiveArg& slot : slots) {
      switch (slot.kind) {
        case CollectiveArg::Kind::kInput:
          args.push_back(PlanArg::of(input));
          break;
        case CollectiveArg::Kind::kInt:
          args.push_back(PlanArg::integer(slot.value));
          break;
        case CollectiveArg::Kind::kWorldSize:
          args.push_back(PlanArg::integer(group_of(site).size));
          break;
        case CollectiveArg::Kind::kGroup:
          args.push_back(PlanArg::copy(anchor.all_reduce, family.match.group));
          break;
        case CollectiveArg::Kind::kReduceOp:
          args.push_back(PlanArg::copy(anchor.all_reduce, family.match.reduce_op));
          break;
      }
    }
    return args;
  }

  [[nodiscard]] const GroupInfo& group_of(const Site& site) const {
    return groups_[sites_.classes[site.token_class].group];
  }

  NodeRef create(TargetId target, std::vector<PlanArg> args, NodeId before, NodeId origin,
                 MetaSpec meta, NodeId kwargs_of = kNone) {
    return edits_.create({target, std::move(args), kwargs_of, before, origin, meta});
  }

  // The collective and, where the family has one, its wait.
  NodeRef collective(const Site& site, TargetId target, const std::vector<CollectiveArg>& slots,
                     NodeRef input, NodeId before, NodeId origin, MetaSpec meta) {
    const TargetId wait = families_[anchor_of(site).family].match.wait;
    const NodeRef result =
        create(target, collective_args(slots, site, input), before, origin, meta);
    if (wait == kNone) return result;
    return create(wait, {PlanArg::of(result)}, before, origin, meta);
  }

  void scatter(const Site& site) {
    const Anchor& anchor = anchor_of(site);
    const CollectiveFamily& family = families_[anchor.family];
    const Value operand = table_.args(anchor.all_reduce)[0];
    SPFAST_CHECK(operand.is_node());
    const NodeRef input = site.flat ? flatten(site, operand.payload) : full_value(operand.payload);
    local_[anchor.reduced] = collective(site, family.reduce_scatter, family.reduce_scatter_args,
                                        input, anchor.all_reduce, anchor.all_reduce,
                                        {Form::kLocal, anchor.all_reduce, site.token_class, 1});
    scattered_.try_emplace(site.token_class, local_[anchor.reduced]);
  }

  // The 2D value behind the views of a 3D one, or a new view.
  NodeRef flatten(const Site& site, NodeId value) {
    const int64_t width = look_of(site).width();
    if (const NodeRef full = full_value(value); full != value) return full;
    std::vector<NodeId> views;
    NodeId at = value;
    while (is_view(at)) {
      SPFAST_WORK(1);
      views.push_back(at);
      at = table_.args(at)[0].payload;
      if (table_.meta(at).kind == MetaKind::kUnknown) {
        missing_.push_back(at);
        return value;  // asked for; this plan is thrown away
      }
      const auto dims = table_.dims(table_.meta(at));
      const NodeRef full = full_value(at);
      const bool flat = full != at || dims.size() == 2;
      if (!flat || dims.empty() || dims.back() != Dim::of(width)) continue;
      for (const NodeId view : views) edits_.may_die(view);
      return full;
    }
    const NodeId all_reduce = anchor_of(site).all_reduce;
    return create(reshape_, {PlanArg::of(value), flat_sizes(width)}, all_reduce, all_reduce,
                  {Form::kFlat, all_reduce, site.token_class, 1});
  }

  [[nodiscard]] static PlanArg flat_sizes(int64_t width) {
    return PlanArg::sizes({PlanArg::integer(-1), PlanArg::integer(width)});
  }

  // A view of a shard has the shard's tokens and its own features.
  void reshape_shard(const Site& site, NodeId node, const SiteOperand& operand) {
    const NodeRef input =
        is_local_for(site, operand.root) ? local_[operand.root] : own_rows(site, operand);
    std::vector<PlanArg> sizes{PlanArg::integer(-1)};
    const auto dims = table_.dims(table_.meta(node));
    for (const Dim dim : dims.last(static_cast<size_t>(features_of(node)))) {
      sizes.push_back(PlanArg::integer(dim.raw));
    }
    const bool expands = (table_.flags(node) & target_flag::kView) == 0;
    local_[node] =
        create(expands ? expand_ : reshape_, {PlanArg::of(input), PlanArg::sizes(std::move(sizes))},
               node, node, {Form::kLocal, node, site.token_class, features_of(node)});
    // It reads what it read until nobody needs it any more.
    edits_.may_die(node);
  }

  // --- inside a site ----------------------------------------------------------------------------

  void localize(const Site& site, const SiteOperand& operand) {
    switch (operand.kind) {
      case SiteOperand::Kind::kStream:
        edits_.rewire(operand.user, operand.name, local_[operand.root]);
        return;
      case SiteOperand::Kind::kRows:
        edits_.rewire(
            operand.user, operand.name,
            is_local_for(site, operand.root) ? local_[operand.root] : own_rows(site, operand));
        release_names(site, operand);
        return;
      case SiteOperand::Kind::kBuffer:
        edits_.rewire(operand.user, operand.name, local_buffer(site, operand.name, operand.user));
        edits_.may_die(operand.name);
        return;
    }
  }

  // The names of a residual that nobody else reads go with their only reader.
  void release_names(const Site& site, const SiteOperand& operand) {
    if (site.match == kNone) return;
    const int64_t width = look_of(site).width();
    for (NodeId name = operand.name; name != operand.root && released_.insert(name).second;) {
      SPFAST_WORK(1);
      edits_.may_die(name);
      name = LookThrough::source(table_, name, width);
    }
  }

  // This rank's rows of a full residual, once for all sites of the class. A value that is written
  // to in place is cut anew each time: a slice shows what stands there when it is read.
  NodeRef own_rows(const Site& site, const SiteOperand& operand) {
    const std::pair key{operand.root, site.token_class};
    if (const auto known = rows_.find(key); known != rows_.end()) return known->second;
    const NodeId before = operand.user;
    NodeRef full = full_value(operand.root);
    const Meta* meta = need(site, operand.root);
    const size_t features = operand.features;
    const size_t rank = meta == nullptr ? features + 1 : table_.dims(*meta).size();
    const MetaSpec flat{Form::kFlat, operand.root, site.token_class, operand.features};
    if (rank > features + 1 && full == operand.root) {
      std::vector<PlanArg> sizes{PlanArg::integer(-1)};
      for (const Dim dim : table_.dims(*meta).last(features)) {
        sizes.push_back(PlanArg::integer(dim.raw));
      }
      full = create(reshape_, {PlanArg::of(full), PlanArg::sizes(std::move(sizes))}, before,
                    operand.root, flat);
    }
    const auto [start, end] = row_bounds(site, before);
    const NodeRef slice =
        create(slice_, {PlanArg::of(full), PlanArg::integer(0), start, end}, before, operand.root,
               {Form::kLocal, operand.root, site.token_class, operand.features});
    if (effects_.writer_of(operand.root) == kNone) rows_.emplace(key, slice);
    return slice;
  }

  // A value of a site is full only behind its all_gather, and so is a view that this replaces.
  [[nodiscard]] NodeRef full_value(NodeId root) const {
    const auto gathered = gathered_.find(root);
    return gathered == gathered_.end() ? root : gathered->second;
  }

  std::pair<PlanArg, PlanArg> row_bounds(const Site& site, NodeId before) {
    const TokenClass& tokens = sites_.classes[site.token_class];
    const GroupInfo& group = group_of(site);
    if (!tokens.tokens.is_expr()) {
      const int64_t local = tokens.tokens.raw / group.size;
      return {PlanArg::integer(group.rank * local), PlanArg::integer((group.rank + 1) * local)};
    }
    if (const auto known = bounds_.find(site.token_class); known != bounds_.end()) {
      return known->second;
    }
    const NodeRef size = local_size(site, before);
    // Every rank makes the same nodes, names included: 0 and 1 are factors like any other.
    const auto scaled = [&](int64_t factor) {
      return PlanArg::of(create(
          mul_, {PlanArg::of(size), PlanArg::integer(factor)}, before, anchor_of(site).all_reduce,
          {Form::kScaled, anchor_of(site).all_reduce, site.token_class, factor}));
    };
    const PlanArg start = scaled(group.rank);
    const PlanArg end = scaled(group.rank + 1);
    return bounds_.emplace(site.token_class, std::pair{start, end}).first->second;
  }

  // tokens / tp as a node, for a symbolic number of tokens.
  NodeRef local_size(const Site& site, NodeId before) {
    const auto known = sizes_.find(site.token_class);
    if (known != sizes_.end()) return known->second;
    const Anchor& anchor = anchor_of(site);
    // A row-wise region may read rows before its own all_reduce: any shard of the class will do.
    NodeRef shard = local_[anchor.reduced];
    if (shard == kNone) shard = scattered_.at(site.token_class);
    const NodeRef size =
        create(sym_size_, {PlanArg::of(shard), PlanArg::integer(0)}, before, anchor.all_reduce,
               {Form::kLocalSize, anchor.all_reduce, site.token_class, 1});
    sizes_.emplace(site.token_class, size);
    return size;
  }

  NodeRef local_buffer(const Site& site, NodeId buffer, NodeId before) {
    const MetaSpec meta{Form::kLocal, buffer, site.token_class, 1};
    const Value first = table_.args(buffer)[0];
    if (first.is_node()) {  // empty_like(a value of the stream)
      const NodeRef like = local_[root_of(site, first.payload)];
      return create(table_.target(buffer), {PlanArg::of(like)}, before, buffer, meta, buffer);
    }
    const TokenClass& tokens = sites_.classes[site.token_class];
    const int64_t width = table_.dims(table_.meta(buffer)).back().raw;
    const PlanArg rows = tokens.tokens.is_expr()
                             ? PlanArg::of(local_size(site, before))
                             : PlanArg::integer(tokens.tokens.raw / group_of(site).size);
    return create(table_.target(buffer), {PlanArg::sizes({rows, PlanArg::integer(width)})}, before,
                  buffer, meta, buffer);
  }

  // A flattened stream has two dims: the last one, named by its positive number, is now -1.
  void fix_dims(const Site& site, NodeId node) {
    for (uint32_t at = matches_.matches[site.match].tree_node; at != kNone;
         at = programs_.nodes()[at].parent) {
      const Step& step = programs_.nodes()[at].step;
      for (const Location& where : last_dim_locations(step, table_.target(node))) {
        const auto args = table_.args(node);
        if (where.position < 0 || static_cast<size_t>(where.position) >= args.size()) continue;
        Value value = args[static_cast<size_t>(where.position)];
        if (value.tag == Tag::kList || value.tag == Tag::kTuple) value = table_.items(value)[0];
        if (value.tag == Tag::kInt && table_.as_int(value) >= 0) {
          edits_.set_dim(node, static_cast<uint32_t>(where.position));
          return;
        }
      }
    }
  }

  void fix_row_dims(NodeId node) {
    const auto& fixes = sites_.layout.dims;
    const auto found =
        std::lower_bound(fixes.begin(), fixes.end(), node,
                         [](const DimFix& fix, NodeId wanted) { return fix.node < wanted; });
    if (found != fixes.end() && found->node == node) {
      edits_.set_dim(node, found->argument, found->rank);
    }
  }

  // --- behind a site ----------------------------------------------------------------------------

  // Its parts are values of the site; all of its users are.
  [[nodiscard]] bool is_tuple(NodeId node) const {
    const auto users = table_.users(node);
    return !users.empty() && (table_.flags(users[0]) & target_flag::kGetItem) != 0 &&
           site_of_[users[0]] == site_of_[node];
  }

  Names collect_names(const Site& site, NodeId value) {
    Names names;
    names.list.push_back({value, 0, false, {}});
    for (uint32_t i = 0; i < names.list.size(); ++i) {
      const NodeId name = names.list[i].node;
      for (const NodeId user : table_.users(name)) {
        SPFAST_WORK(1);
        if (use_of(user, name) == Use::kLocal) continue;
        if (asks_for_size(site, user, name)) {
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

  // A size of a value is a size of what was reduced: nothing is gathered to know it.
  [[nodiscard]] bool asks_for_size(const Site& site, NodeId user, NodeId name) {
    if (table_.target(user) != sym_size_ || !site.scatters) return false;
    const NodeId all_reduce = anchor_of(site).all_reduce;
    const NodeId input = table_.args(all_reduce)[0].payload;
    if (site_of_[look_of(site).root(input)] != kNone) return false;
    const Meta* meta = need(site, name);
    if (meta == nullptr) return false;
    const auto dims = table_.dims(*meta);
    const auto reduced = table_.dims(table_.meta(all_reduce));
    return std::equal(dims.begin(), dims.end(), reduced.begin(), reduced.end());
  }

  [[nodiscard]] bool is_name_of(const Site& site, NodeId user, NodeId name, NodeId value) const {
    if (sites_.layout.active()) {
      if (sites_.layout.source[user] != kNone) return sites_.layout.source[user] == name;
      if (site.match == kNone || features_of(value) != 1) return false;
    }
    return LookThrough::source(table_, user, look_of(site).width()) == name;
  }

  // One all_gather for everybody outside the sites who reads the value under any name.
  void gather_outputs(const Site& site, NodeId value) {
    const auto users = table_.users(value);
    const bool inside = std::all_of(users.begin(), users.end(), [&](NodeId user) {
      SPFAST_WORK(1);
      return use_of(user, value) == Use::kLocal;
    });
    if (inside) return;
    const Names names = collect_names(site, value);
    for (size_t i = 1; i < names.list.size(); ++i) edits_.may_die(names.list[i].node);
    for (const auto& [user, name] : names.sizes) {
      edits_.rewire(user, name, table_.args(anchor_of(site).all_reduce)[0].payload);
    }
    if (!names.list[0].live) return;
    const auto features = static_cast<size_t>(features_of(value));
    size_t rank = 2;
    int64_t width = look_of(site).width();
    if (site.flat || site.views || site.match == kNone || names.list.size() > 1) {
      const Meta* meta = need(site, value);
      if (meta == nullptr) return;
      rank = table_.dims(*meta).size();
      const Dim last = rank == 0 ? Dim::of(1) : table_.dims(*meta).back();
      width = last.is_expr() ? -1 : last.raw;
    }
    const bool alike = site.match == kNone || width == look_of(site).width();
    const bool is_flat = rank == features + 1;
    // What each reader reads, in graph order: the value in two dims, or in its own.
    struct Read {
      NodeId reader;
      NodeId name;
      bool flat;
    };
    std::vector<Read> reads;
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
          reads.push_back({name.node, source, is_flat || name.source != 0 || is_view(name.node)});
        }
      }
      if (!dropped[i]) continue;
      for (const NodeId reader : name.readers) {
        const bool view = is_view(reader) && table_.args(reader)[0] == Value{Tag::kNode, name.node};
        reads.push_back({reader, name.node, i != 0 || is_flat || view});
      }
    }
    std::sort(reads.begin(), reads.end(), [](const Read& a, const Read& b) {
      return std::pair{a.reader, a.name} < std::pair{b.reader, b.name};
    });
    const CollectiveFamily& family = families_[anchor_of(site).family];
    const NodeId before = reads.front().reader;
    const int64_t kept = features_of(value);
    const bool bytes = as_bytes(site, value);
    NodeRef shard = local_[value];
    if (bytes) {
      shard = create(view_dtype_, {PlanArg::of(shard), PlanArg::bytes()}, before, value,
                     {Form::kLocalBytes, value, site.token_class, kept});
    }
    NodeRef flat =
        collective(site, family.all_gather, family.all_gather_args, shard, before, value,
                   {bytes ? Form::kGatheredBytes : Form::kGathered, value, site.token_class, kept});
    if (bytes) {
      flat = create(view_dtype_, {PlanArg::of(flat), PlanArg::dtype_of(value)}, before, value,
                    {Form::kGathered, value, site.token_class, kept});
    }
    for (size_t i = 0; i < names.list.size(); ++i) {
      if (dropped[i]) gathered_.emplace(names.list[i].node, flat);
    }
    NodeRef full = kNone;
    for (const Read& read : reads) {
      if (use_of(read.reader, read.name) == Use::kSliced) continue;
      if (!read.flat && full == kNone) full = unflatten(site, value, flat, read.reader);
      edits_.rewire(read.reader, read.name, read.flat ? flat : full);
    }
  }

  [[nodiscard]] bool as_bytes(const Site& site, NodeId value) {
    if (!sites_.gather_bytes) return false;
    const Meta* meta = need(site, value);
    return meta != nullptr && table_.string(meta->dtype).find("float8") != std::string::npos;
  }

  [[nodiscard]] bool is_view(NodeId node) const {
    const auto args = table_.args(node);
    return (table_.flags(node) & target_flag::kView) != 0 && args.size() == 2 &&
           args[0].is_node() && (args[1].tag == Tag::kList || args[1].tag == Tag::kTuple);
  }

  // A view to [tokens, features...]: what the all_gather yields already.
  [[nodiscard]] bool is_flat_view(NodeId node, size_t features) const {
    return is_view(node) && table_.items(table_.args(node)[1]).size() == features + 1;
  }

  // Back to the dims that the value had. One symbolic dim is what is left over; of two, all but the
  // first are asked of the tensor that was reduced.
  NodeRef unflatten(const Site& site, NodeId value, NodeRef flat, NodeId before) {
    std::vector<PlanArg> sizes;
    bool inferred = false;
    const NodeId input = table_.args(anchor_of(site).all_reduce)[0].payload;
    const auto dims = table_.dims(table_.meta(value));
    for (size_t i = 0; i < dims.size(); ++i) {
      if (!dims[i].is_expr()) {
        sizes.push_back(PlanArg::integer(dims[i].raw));
      } else if (!inferred) {
        inferred = true;
        sizes.push_back(PlanArg::integer(-1));
      } else {
        sizes.push_back(PlanArg::of(create(
            sym_size_, {PlanArg::of(input), PlanArg::integer(static_cast<int64_t>(i))}, before,
            value, {Form::kDimSize, input, site.token_class, static_cast<int64_t>(i)})));
      }
    }
    return create(reshape_, {PlanArg::of(flat), PlanArg::sizes(std::move(sizes))}, before, value,
                  {Form::kSame, value, site.token_class, 1});
  }

  // Absent when it has to be read first, or, for good, when there is none to read: then the site
  // stays, and this plan is thrown away.
  const Meta* need(const Site& site, NodeId node) {
    const Meta& meta = table_.meta(node);
    if (meta.kind == MetaKind::kTensor && !table_.dims(meta).empty()) return &meta;
    if (meta.kind == MetaKind::kUnknown) {
      missing_.push_back(node);
    } else {
      unknown_.emplace_back(static_cast<uint32_t>(&site - sites_.sites.data()), node);
    }
    return nullptr;
  }

  const NodeTable& table_;
  const ProgramSet& programs_;
  const MatchResult& matches_;
  std::span<const CollectiveFamily> families_;
  std::span<const GroupInfo> groups_;
  const Sites& sites_;
  const Effects& effects_;
  std::vector<NodeId>& missing_;
  std::vector<std::pair<uint32_t, NodeId>> unknown_;  // site, value without a size
  Plan plan_;
  EditList edits_;
  std::vector<uint32_t> site_of_;             // by node: the site whose value it is
  std::vector<NodeRef> local_;                // by value of a site: its shard
  std::unordered_set<NodeId> released_;       // names of residuals that may go
  std::unordered_set<uint64_t> buffer_uses_;  // (buffer, the value of a stream that it is like)
  std::map<NodeId, NodeRef> gathered_;
  std::map<std::pair<NodeId, uint32_t>, NodeRef> rows_;
  std::map<uint32_t, std::pair<PlanArg, PlanArg>> bounds_;
  std::map<uint32_t, NodeRef> sizes_;
  std::map<uint32_t, NodeRef> scattered_;  // by token class: the first shard
  const TargetId reshape_ = intern_target("aten.reshape.default");
  const TargetId expand_ = intern_target("aten.expand.default");
  const TargetId view_dtype_ = intern_target("aten.view.dtype");
  const TargetId slice_ = intern_target("aten.slice.Tensor");
  const TargetId sym_size_ = intern_target("aten.sym_size.int");
  const TargetId mul_ = intern_target("_operator.mul");
};

}  // namespace

Plan make_plan(const NodeTable& table, const ProgramSet& programs, const MatchResult& matches,
               std::span<const CollectiveFamily> families, std::span<const GroupInfo> groups,
               Sites& sites, const Effects& effects, std::vector<NodeId>& missing) {
  while (true) {
    Planner planner(table, programs, matches, families, groups, sites, effects, missing);
    Plan plan = planner.run();
    if (planner.unknown().empty()) return plan;
    for (const auto& [site, node] : planner.unknown()) {
      sites.sites[site].reason = {Reason::Kind::kUnknownSize, node, kNone, 0, 0};
    }
  }
}

}  // namespace spfast
