#include "rewrite/run.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "base/check.h"
#include "rewrite/examine_sites.h"
#include "rewrite/lone_parts.h"
#include "table/shared_traits.h"

namespace spfast {
namespace {

// The values at these places of what a graph returns, those that it returns once.
std::vector<LocalOutput> returned(const NodeTable& table, const std::vector<size_t>& places) {
  std::vector<LocalOutput> found;
  if (places.empty()) return found;
  const NodeId output = table.size() - 1;
  const auto args = table.args(output);
  if (table.op(output) != Op::kOutput || args.empty() || !is_sequence(args[0].tag)) return found;
  const auto items = table.items(args[0]);
  for (const size_t place : places) {
    if (place >= items.size() || !items[place].is_node()) continue;
    if (std::count(items.begin(), items.end(), items[place]) != 1) continue;
    found.push_back({output, items[place].payload});
  }
  return found;
}

// Whether a value of this form can be made from what is known of the node that it is like.
bool can_be_made(const NodeTable& table, const MetaSpec& spec) {
  using Form = MetaSpec::Form;
  if (spec.form == Form::kLocalSize || spec.form == Form::kScaled) return true;
  if (spec.form == Form::kTokens || spec.form == Form::kMissing) return true;
  const Meta& like = table.meta(spec.like);
  if (like.kind == MetaKind::kTensor) return spec.form == Form::kSame || !table.dims(like).empty();
  if (like.kind != MetaKind::kTuple) return false;
  const auto parts = table.parts(like);
  return std::all_of(parts.begin(), parts.end(), [&](uint32_t id) {
    const Meta& part = table.meta_at(id);  // kMissing: the tuple has None there
    return part.kind == MetaKind::kMissing ||
           (part.kind == MetaKind::kTensor && !table.dims(part).empty());
  });
}

}  // namespace

Run::Run(NodeTable& table, const Rules& rules, MetaSource& source, std::vector<NodeId> listed)
    : table_(table), rules_(rules), source_(source), listed_(std::move(listed)) {
  std::unordered_set<uint64_t> known;
  std::vector<NodeId> parts;
  for (const Anchor& anchor : find_anchors(table_, rules_.anchors, listed_)) {
    if (anchor.call != anchor.all_reduce) parts.push_back(anchor.all_reduce);
    if (!is_group(anchor.group)) continue;
    if (!known.insert(argument_key(anchor.group)).second) continue;
    groups_.push_back({anchor.group, 0, 0, {}});
    group_examples_.push_back(anchor.call);
  }
  for (const NodeId other : find_other_groups(table_, rules_.families, groups_)) {
    groups_.push_back({group_of(table_, rules_.families, other), 0, 0, {}});
  }
  source_.read_metas(table_, parts);
}

std::vector<std::string> Run::other_groups() const {
  std::vector<std::string> names;
  for (size_t i = group_examples_.size(); i < groups_.size(); ++i) {
    names.emplace_back(table_.string(groups_[i].group.payload));
  }
  return names;
}

void Run::set_groups(std::span<const GroupInfo> infos) {
  SPFAST_CHECK(infos.size() == group_examples_.size() || infos.size() == groups_.size());
  for (size_t i = 0; i < infos.size(); ++i) {
    const Argument group = groups_[i].group;
    groups_[i] = infos[i];
    groups_[i].group = group;
  }
}

void Run::match(RunOptions options) {
  options_ = std::move(options);
  for (const NodeId input : options_.trust.replicated) SPFAST_CHECK(input < table_.size());
  for (const NodeId value : options_.trust.own) SPFAST_CHECK(value < table_.size());
  for (const NodeId call : options_.trust.writers) SPFAST_CHECK(call < table_.size());
  for (const NodeId input : options_.trust.numbers) SPFAST_CHECK(input < table_.size());
  for (const NodeId call : options_.calls.known) SPFAST_CHECK(call < table_.size());
  for (const auto* pairs : {&options_.calls.written, &options_.calls.shown}) {
    for (const auto& [call, value] : *pairs) {
      SPFAST_CHECK(call < table_.size() && value < table_.size());
    }
  }
  static const ProgramSet kNoPrograms;
  matches_ = find_matches(table_, options_.patterns ? rules_.programs : kNoPrograms, rules_.anchors,
                          listed_);
  costs_.collective = options_.collective_cost;
  // The caller does not know the rows of a flattened stream.
  const bool flat =
      std::all_of(matches_.anchors.begin(), matches_.anchors.end(), [&](const Anchor& anchor) {
        return table_.dims(table_.meta(anchor.all_reduce)).size() == 2;
      });
  if (flat) costs_.local_outputs = returned(table_, options_.local_outputs);
  read_sizes();
  effects_.emplace(table_, options_.calls);
  replication_.emplace(table_, *effects_, rules_.rows, rules_.families, groups_, options_.trust);
}

// Reads the sizes that the graph asks for: their metas tell whether they depend on data. And those
// of values of which parts are taken: they tell whether some are left.
void Run::read_sizes() {
  std::vector<NodeId> sizes;
  {
    SharedTraits traits;
    for (NodeId node = 0; node < table_.size(); ++node) {
      if (table_.op(node) != Op::kCallFunction) continue;
      const OperatorTraits& known = traits.of(table_.target(node));
      if (known.sizes) sizes.push_back(node);
      list_sized(table_, node, known.takes_part, sizes);
    }
  }
  // The lock is given back: to read metas may wait for Python.
  source_.read_metas(table_, sizes);
}

void Run::plan(const Decide& decide) {
  examined_ = false;
  for (;;) {
    auto result = attempt(decide);
    if (const Unknown* unknown = std::get_if<Unknown>(&result)) {
      learn(*unknown);
    } else {
      plan_ = std::get<Plan>(std::move(result));
      return;
    }
  }
}

std::variant<Plan, Unknown> Run::attempt(const Decide& decide) {
  if (!examined_) {
    sites_ = examine_sites(table_, rules_.programs, matches_, groups_, judged_, *effects_,
                           *replication_, held_, options_.rowwise ? &rules_.rows : nullptr, costs_);
    sites_.gather_bytes = options_.gather_bytes;
    if (!sites_.missing.empty()) return Unknown{sites_.missing, {}};
    if (judge_classes(decide)) return Unknown{};
    examined_ = true;
  }
  auto result =
      make_plan(table_, rules_.programs, matches_, rules_.families, groups_, sites_, *effects_);
  if (const Plan* plan = std::get_if<Plan>(&result)) {
    Unknown unknown = unknown_values(*plan);
    if (!unknown.empty()) return unknown;
  }
  return result;
}

bool Run::judge_classes(const Decide& decide) {
  const size_t before = judged_.size();
  for (const TokenClass& one : sites_.classes) {
    if (!one.refused.empty() || one.padded) continue;
    Verdict verdict = decide(one);
    if (!verdict.refused.empty() || verdict.padded) {
      judged_.push_back({one.tokens, one.group, std::move(verdict)});
    }
  }
  return judged_.size() > before;
}

// The sites of nodes whose values cannot be made. A plan with such nodes is of no use.
Unknown Run::unknown_values(const Plan& plan) {
  std::vector<NodeId> likes;
  for (const MetaSpec& one : plan.metas) likes.push_back(one.like);
  for (const Created& one : plan.created) likes.push_back(one.meta.like);
  source_.read_metas(table_, likes);
  std::unordered_set<NodeId> unknown;
  std::unordered_set<NodeId> tuples;  // that are resized: a part of one is what the tuple holds
  const auto check = [&](const MetaSpec& spec) {
    if (!can_be_made(table_, spec)) unknown.insert(spec.like);
  };
  for (const MetaSpec& one : plan.metas) {
    if (tuples.contains(table_.whole_of(one.like))) continue;
    if (table_.meta(one.like).kind == MetaKind::kTuple) tuples.insert(one.like);
    check(one);
  }
  for (const Created& one : plan.created) check(one.meta);
  Unknown out;
  if (unknown.empty()) return out;
  for (uint32_t i = 0; i < sites_.sites.size(); ++i) {
    const Site& site = sites_.sites[i];
    if (!site.reason.empty()) continue;
    NodeId why = kNone;
    const auto look = [&](NodeId node) {
      if (why == kNone && unknown.contains(node)) why = node;
    };
    if (site.scatters) look(matches_.anchors[site.anchor].reduced);
    for (const NodeId node : site.interior) look(node);
    for (const SiteOperand& one : site.operands) {
      look(one.root);
      look(one.alias);
    }
    if (why == kNone) continue;
    out.stays.emplace_back(i, Reason{Reason::Kind::kUnknownSize, why, kNone, 0, 0});
  }
  SPFAST_CHECK(!out.stays.empty());  // every value belongs to a site
  return out;
}

void Run::learn(const Unknown& unknown) {
  source_.read_metas(table_, unknown.values);
  for (const NodeId node : unknown.values) {
    SPFAST_CHECK(table_.meta(node).kind !=
                 MetaKind::kUnknown);  // else it would be asked for forever
  }
  for (const auto& [index, reason] : unknown.stays) {
    const Site& site = sites_.sites[index];
    const TokenClass& shared = sites_.classes[site.token_class];
    held_.push_back({site.anchor, site.scatters, shared.tokens, shared.group, reason});
    examined_ = false;
  }
}

std::vector<SiteReport> Run::reports() {
  return report_sites(table_, source_, {rules_, groups_, matches_, sites_, options_.patterns});
}

std::vector<Assumption> Run::assumptions() const {
  return find_assumptions(table_, matches_.anchors, sites_, *replication_);
}

}  // namespace spfast
