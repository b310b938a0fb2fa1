// Runs the pass over a table in one call: the loop that users run, without Python.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "graphs.h"
#include "rewrite/run.h"

namespace spfast::testing {

struct Ranks {
  int64_t size = 4;
  int64_t rank = 1;
};

// Nobody knows more than the table says: each value that is asked for turns out to have no meta.
class NothingElse : public MetaSource {
 public:
  void read_metas(NodeTable& table, std::span<const NodeId> wanted) override {
    Meta missing;
    missing.kind = MetaKind::kMissing;
    for (const NodeId node : wanted) {
      if (table.meta(node).kind != MetaKind::kUnknown) continue;
      asked.push_back(node);
      table.set_meta(node, table.add_meta(missing));
    }
  }
  void read_names(NodeTable&) override {}

  std::vector<NodeId> asked;
};

// Each group that the anchors name, all with the same ranks.
inline std::vector<GroupInfo> groups_of(const Run& run, Ranks ranks) {
  return std::vector<GroupInfo>(run.group_examples().size(), {{}, ranks.size, ranks.rank, {}});
}

struct Planned {
  NodeTable table;
  std::vector<GroupInfo> groups;
  MatchResult matches;
  Sites sites;
  Plan plan;
  std::vector<NodeId> missing;  // values whose size the run wanted to know
  std::vector<SiteReport> reports;

  [[nodiscard]] std::string text() const { return format_plan(table, plan); }
  [[nodiscard]] std::string reason(size_t site) const {
    return format_reason(table, groups, sites.classes, sites.sites.at(site).reason);
  }
  [[nodiscard]] size_t rewritten() const {
    return static_cast<size_t>(std::count_if(sites.sites.begin(), sites.sites.end(),
                                             [](const Site& site) { return site.reason.empty(); }));
  }
  [[nodiscard]] size_t created(const char* target) const {
    return static_cast<size_t>(
        std::count_if(plan.created.begin(), plan.created.end(),
                      [&](const Created& made) { return made.target == intern_target(target); }));
  }
};

// What is decided of the classes of these tokens and groups.
inline Run::Decide judging(std::vector<JudgedClass> judged) {
  return [judged = std::move(judged)](const TokenClass& one) {
    for (const JudgedClass& each : judged) {
      if (each.tokens == one.tokens && each.group == one.group) return each.verdict;
    }
    return Verdict{};
  };
}

// Whatever the ranks cannot share evenly is padded.
inline Verdict padding(const TokenClass& one) {
  return {{}, one.tokens.is_expr() || one.tokens.raw % one.ranks != 0};
}

inline Rules rules_with(ProgramSet programs) {
  return {std::move(programs), families(), anchor_families(), row_rules()};
}

inline const Rules& all_rules() {
  static const Rules all = rules_with(all_programs());
  return all;
}

struct Setting {
  Ranks ranks = {};
  std::string group_problem = {};  // of every group
  Run::Decide decide = judging({});
  RunOptions options = {};
};

inline Planned plan_with(NodeTable table, const Rules& rules, Setting setting) {
  Planned out{std::move(table), {}, {}, {}, {}, {}, {}};
  NothingElse source;
  Run run(out.table, rules, source);
  std::vector<GroupInfo> groups = groups_of(run, setting.ranks);
  for (GroupInfo& group : groups) group.problem = setting.group_problem;
  run.set_groups(groups);
  run.match(std::move(setting.options));
  run.plan(setting.decide);
  out.reports = run.reports();
  out.groups = run.groups();
  out.matches = run.matches();
  out.sites = run.sites();
  out.plan = run.made();
  out.missing = std::move(source.asked);
  return out;
}

inline Planned plan_of(NodeTable table, Ranks ranks = {}) {
  return plan_with(std::move(table), all_rules(), {.ranks = ranks});
}

// With the row-wise recogniser beside the patterns.
inline Planned plan_of_both(NodeTable table, Ranks ranks = {}) {
  return plan_with(std::move(table), all_rules(), {.ranks = ranks, .options = {.rowwise = true}});
}

// One fused site; the norm and its input have names.
inline Node site(GraphBuilder& b, Node x, Node weight, const Shape& shape = kShape) {
  const Node reduced = b.call(kIrReduce, {x, "tp"}, shape);
  const Node normed = b.call(kIrNorm, {reduced, weight, 1e-5}, shape);
  b.name(reduced, "reduced");
  b.name(normed, "normed");
  return normed;
}

}  // namespace spfast::testing
