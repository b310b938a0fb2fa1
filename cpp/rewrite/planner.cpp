#include "rewrite/planner.h"

#include <algorithm>
#include <map>
#include <unordered_set>

#include "base/check.h"
#include "base/work.h"
#include "rewrite/gatherer.h"
#include "rewrite/rank_rows.h"

namespace spfast {
namespace {

class Planner {
 public:
  explicit Planner(PlanBuilder& builder)
      : builder_(builder),
        table_(builder.table),
        sites_(builder.sites),
        uses_(builder),
        padding_(builder),
        rows_(builder, padding_),
        gatherer_(builder, uses_, padding_) {}

  void run() {
    for (const SiteValue& one : site_values()) rewrite(sites_.sites[one.site], one);
    builder_.edits.finish();
  }

 private:
  // One value of a site. Values are rewritten in graph order: later ones may read what is created
  // for earlier ones.
  struct SiteValue {
    NodeId node;
    uint32_t site;
    uint32_t operands;  // where the node's operands begin among the site's
  };

  [[nodiscard]] std::vector<SiteValue> site_values() const {
    std::vector<SiteValue> all;
    for (uint32_t i = 0; i < sites_.sites.size(); ++i) {
      const Site& site = sites_.sites[i];
      if (!site.reason.empty()) continue;
      if (site.scatters) all.push_back({builder_.anchor_of(site).all_reduce, i, 0});
      uint32_t operand = 0;
      for (const NodeId node : site.interior) {
        all.push_back({node, i, operand});
        while (operand < site.operands.size() && site.operands[operand].user == node) ++operand;
      }
      SPFAST_CHECK(operand == site.operands.size());
    }
    std::sort(all.begin(), all.end(),
              [](const SiteValue& a, const SiteValue& b) { return a.node < b.node; });
    return all;
  }

  void rewrite(const Site& site, const SiteValue& one) {
    const Anchor& anchor = builder_.anchor_of(site);
    if (one.node == anchor.all_reduce) {
      scatter(site);
      gatherer_.gather_outputs(site, anchor.reduced);
      return_rows(anchor.reduced);
      builder_.edits.erase_if_unused(anchor.reduced);
      builder_.edits.erase_if_unused(anchor.all_reduce);
      builder_.edits.erase_if_unused(anchor.call);
      return;
    }
    const NodeId node = one.node;
    const auto operands = std::span(site.operands).subspan(one.operands);
    if (const TokenSum* sum = sites_.layout.sum_at(node)) {
      finish_sum(site, *sum, operands.front());
      return;
    }
    if (sites_.layout.active() && sites_.layout.reshapes[node]) {
      reshape_shard(site, node, operands.front());
    } else {
      for (const SiteOperand& operand : operands) {
        if (operand.user != node) break;
        localize(site, operand);
      }
      builder_.edits.resize(node,
                            {MetaForm::kLocal, node, site.token_class, builder_.features_of(node)});
      if (site.match == kNone) {
        fix_row_dims(node);
      } else if (site.flat || site.views) {
        fix_dims(site, node);
      }
    }
    if (is_tuple(node)) return;
    gatherer_.gather_outputs(site, node);
    return_rows(node);
  }

  // Lets the graph return the shard of a value where the caller takes this rank's rows.
  void return_rows(NodeId value) {
    if (sites_.local_outputs.empty()) return;
    for (const NodeId user : table_.users(value)) {
      SPFAST_WORK(1);
      if (!uses_.leaves_as_rows(user, value) || builder_.local[value] == value) continue;
      builder_.edits.rewire(user, value, builder_.local[value]);
    }
  }

  void scatter(const Site& site) {
    const Anchor& anchor = builder_.anchor_of(site);
    const CollectiveFamily& family = builder_.families[anchor.family];
    SPFAST_CHECK(anchor.input != kNone);
    NodeRef input = site.flat ? flatten(site, anchor.input) : builder_.full_value(anchor.input);
    if (!lies_fresh(site, anchor.input, input)) {
      input = builder_.fresh(input, anchor.all_reduce, anchor.all_reduce,
                             {MetaForm::kFlat, anchor.all_reduce, site.token_class, 1});
    }
    input = padding_.fill(site, input, anchor.all_reduce, anchor.all_reduce, 1);
    builder_.local[anchor.reduced] =
        builder_.collective(site, family.reduce_scatter, family.reduce_scatter_args, input,
                            anchor.all_reduce, anchor.reduced, anchor.all_reduce,
                            {MetaForm::kLocal, anchor.all_reduce, site.token_class, 1});
    builder_.scattered.try_emplace(site.token_class, builder_.local[anchor.reduced]);
  }

  // Whether what a site reads has the strides of a fresh tensor. An all_gather's result has; a view
  // may have the strides of the value behind it.
  [[nodiscard]] bool lies_fresh(const Site& site, NodeId value, NodeRef input) {
    if (input < table_.size()) value = input;
    const bool view = input < table_.size() ||
                      builder_.plan.created[input - table_.size()].target == builder_.reshape;
    const Meta* meta = view ? builder_.need(site, value) : nullptr;
    return meta == nullptr || builder_.layouts.is_dense(*meta);
  }

  // A 2D form of a value: the one that it is a view of, or else a new view.
  NodeRef flatten(const Site& site, NodeId value) {
    const int64_t width = builder_.look_of(site).width();
    if (const NodeRef full = builder_.full_value(value); full != value) return full;
    const NodeRef behind = flat_behind(value, width);
    // A meta has to be read first. This plan is thrown away.
    if (!builder_.unknown.values.empty()) return value;
    if (behind != kNone) return behind;
    const NodeId all_reduce = builder_.anchor_of(site).all_reduce;
    const auto features = table_.dims(table_.meta(all_reduce)).last(1);
    return builder_.create(
        builder_.reshape, {PlanArg::of(value), PlanBuilder::flat_sizes(features)}, all_reduce,
        all_reduce, {MetaForm::kFlat, lies_like(value, all_reduce), site.token_class, 1});
  }

  // The node whose strides a view of a value gets: the value. If its strides are not known: what is
  // reduced.
  [[nodiscard]] NodeId lies_like(NodeId value, NodeId all_reduce) const {
    return table_.meta(value).kind == MetaKind::kTensor ? value : all_reduce;
  }

  // The 2D value of this width behind a chain of views. It is noted for each view of the chain, so
  // that no chain is followed twice.
  NodeRef flat_behind(NodeId value, int64_t width) {
    std::vector<NodeId> views;
    NodeRef found = kNone;
    for (NodeId at = value; builder_.is_view(at) && found == kNone;) {
      SPFAST_WORK(1);
      const auto known = flat_.find({at, width});
      if (known != flat_.end()) {
        found = known->second;
        break;
      }
      views.push_back(at);
      at = table_.args(at)[0].payload;
      if (table_.meta(at).kind == MetaKind::kUnknown) {
        // The rest of the chain is followed all the same. So all of its metas are read at once.
        builder_.unknown.values.push_back(at);
        continue;
      }
      const auto dims = table_.dims(table_.meta(at));
      const NodeRef full = builder_.full_value(at);
      const bool flat = full != at || dims.size() == 2;
      if (flat && !dims.empty() && dims.back() == Dim::of(width)) found = full;
    }
    for (const NodeId view : views) {
      flat_.emplace(std::pair{view, width}, found);
      if (found != kNone) builder_.edits.erase_if_unused(view);
    }
    return found;
  }

  // Makes a view of a shard: it has the shard's tokens and the features of the old view.
  void reshape_shard(const Site& site, NodeId node, const SiteOperand& operand) {
    const auto features = static_cast<size_t>(builder_.features_of(node));
    const auto dims = table_.dims(table_.meta(node)).last(features);
    const bool expands = (table_.flags(node) & target_flag::kView) == 0;
    builder_.local[node] = builder_.create(
        expands ? builder_.expand : builder_.reshape,
        {PlanArg::of(rows_.shard_of(site, operand)), PlanBuilder::flat_sizes(dims)}, node, node,
        {MetaForm::kLocal, node, site.token_class, builder_.features_of(node)});
    // The old view stays as long as somebody reads it in full.
    builder_.edits.erase_if_unused(node);
  }

  // Each rank sums its own rows, and an all_reduce adds these parts. The old sum then reads the
  // total as a value of one row. A sum over one row changes no number, and it gives the total the
  // old dims.
  void finish_sum(const Site& site, const TokenSum& sum, const SiteOperand& operand) {
    const auto spec = [&](MetaForm form, NodeId like) {
      return MetaSpec{form, like, site.token_class, sum.features};
    };
    const NodeRef part = builder_.create(
        table_.target(sum.node),
        {PlanArg::of(rows_.shard_of(site, operand)), PlanArg::sizes({PlanArg::integer(0)})},
        sum.node, sum.node, spec(MetaForm::kPart, sum.alias));
    const NodeRef whole =
        builder_.all_reduce(sum.anchor, part, sum.node, sum.node, spec(MetaForm::kPart, sum.alias));
    const auto dims = table_.dims(table_.meta(sum.alias));
    std::vector<PlanArg> sizes(dims.size() - sum.features, PlanArg::integer(1));
    for (const Dim dim : dims.last(sum.features)) sizes.push_back(PlanArg::integer(dim.raw));
    const NodeRef total =
        builder_.create(builder_.reshape, {PlanArg::of(whole), PlanArg::sizes(std::move(sizes))},
                        sum.node, sum.node, spec(MetaForm::kTotal, sum.alias));
    builder_.edits.rewire(sum.node, sum.alias, total);
  }

  void localize(const Site& site, const SiteOperand& operand) {
    switch (operand.kind) {
      case SiteOperand::Kind::kStream:
        builder_.edits.rewire(operand.user, operand.alias, builder_.local[operand.root]);
        return;
      case SiteOperand::Kind::kRows:
        builder_.edits.rewire(operand.user, operand.alias, rows_.shard_of(site, operand));
        release_aliases(site, operand);
        return;
      case SiteOperand::Kind::kSame:
        builder_.edits.rewire(operand.user, operand.alias, rows_.one_row(site, operand));
        return;
      case SiteOperand::Kind::kSpread:
        builder_.edits.rewire(operand.user, operand.alias, rows_.spread_rows(site, operand));
        return;
      case SiteOperand::Kind::kBuffer:
        builder_.edits.rewire(operand.user, operand.alias,
                              local_buffer(site, operand.alias, operand.user));
        builder_.edits.erase_if_unused(operand.alias);
        return;
    }
  }

  // Lets the views and copies of a residual be erased, if nobody but this site reads them.
  void release_aliases(const Site& site, const SiteOperand& operand) {
    if (site.match == kNone) return;
    const int64_t width = builder_.look_of(site).width();
    for (NodeId alias = operand.alias; alias != operand.root && released_.insert(alias).second;) {
      SPFAST_WORK(1);
      builder_.edits.erase_if_unused(alias);
      NodeId source = LookThrough::source(table_, alias, width);
      // Patterns know fewer aliases than the row-wise view. Behind theirs there may be more.
      if (source == kNone && sites_.layout.active()) source = sites_.layout.source[alias];
      if (source == kNone) return;
      alias = source;
    }
  }

  NodeRef local_buffer(const Site& site, NodeId buffer, NodeId before) {
    const MetaSpec meta{MetaForm::kLocal, buffer, site.token_class, 1};
    const Argument first = table_.args(buffer)[0];
    if (first.is_node()) {  // empty_like(a value of the stream)
      const NodeRef like = builder_.local[builder_.root_of(site, first.payload)];
      return builder_.create(table_.target(buffer), {PlanArg::of(like)}, before, buffer, meta,
                             buffer);
    }
    const int64_t width = table_.dims(table_.meta(buffer)).back().raw;
    const PlanArg rows = rows_.local_size(site, before);
    return builder_.create(table_.target(buffer), {PlanArg::sizes({rows, PlanArg::integer(width)})},
                           before, buffer, meta, buffer);
  }

  // A flattened stream has two dims. So an argument that gave the last dim as a positive number
  // becomes -1.
  void fix_dims(const Site& site, NodeId node) {
    for (uint32_t at = builder_.matches.matches[site.match].tree_node; at != kNone;
         at = builder_.programs.nodes()[at].parent) {
      const Step& step = builder_.programs.nodes()[at].step;
      for (const Location& where : last_dim_locations(step, table_.target(node))) {
        const auto args = table_.args(node);
        if (where.position < 0 || static_cast<size_t>(where.position) >= args.size()) continue;
        Argument value = args[static_cast<size_t>(where.position)];
        if (is_sequence(value.tag)) value = table_.items(value)[0];
        if (value.tag == Tag::kInt && table_.as_int(value) >= 0) {
          builder_.edits.set_dim(node, static_cast<uint32_t>(where.position));
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
      builder_.edits.set_dim(node, found->argument, found->rank);
    }
  }

  // Whether a node yields a tuple whose parts are values of its own site.
  [[nodiscard]] bool is_tuple(NodeId node) const {
    const auto users = table_.users(node);
    return !users.empty() && table_.whole_of(users[0]) == node &&
           builder_.site_of[users[0]] == builder_.site_of[node];
  }

  PlanBuilder& builder_;
  const NodeTable& table_;
  const Sites& sites_;
  Uses uses_;
  Padding padding_;
  RankRows rows_;
  Gatherer gatherer_;
  std::unordered_set<NodeId> released_;  // aliases of residuals that may go
  // By view and width: the 2D value behind it; kNone: there is none.
  std::map<std::pair<NodeId, int64_t>, NodeRef> flat_;
};

}  // namespace

std::variant<Plan, Unknown> make_plan(const NodeTable& table, const ProgramSet& programs,
                                      const MatchResult& matches,
                                      std::span<const CollectiveFamily> families,
                                      std::span<const GroupInfo> groups, const Sites& sites,
                                      const Effects& effects) {
  PlanBuilder builder(table, programs, matches, families, groups, sites, effects);
  Planner(builder).run();
  // A site may have been refused only because a meta was not read yet. It is asked again once the
  // meta is there.
  if (!builder.unknown.values.empty()) builder.unknown.stays.clear();
  if (!builder.unknown.empty()) return std::move(builder.unknown);
  return std::move(builder.plan);
}

}  // namespace spfast
