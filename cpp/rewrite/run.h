// One run of the pass over one table: match, examine, plan, and ask again until all is known.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/check.h"
#include "match/finder.h"
#include "rewrite/assumptions.h"
#include "rewrite/costs.h"
#include "rewrite/decided.h"
#include "rewrite/effects.h"
#include "rewrite/group_info.h"
#include "rewrite/meta_source.h"
#include "rewrite/plan.h"
#include "rewrite/planner.h"
#include "rewrite/replication.h"
#include "rewrite/report.h"
#include "rewrite/rules.h"
#include "rewrite/sites.h"

namespace spfast {

struct RunOptions {
  bool patterns = true;       // the rules
  bool rowwise = false;       // row-wise operators are followed too
  bool gather_bytes = false;  // collectives take no float8
  Trust trust = {};
  CallEffects calls = {};
  int64_t collective_cost = Costs{}.collective;
  // Which of the values that the graph returns it may return as this rank's rows, by place.
  std::vector<size_t> local_outputs = {};
};

class Run {
 public:
  // Why the tokens of a class cannot be shared, or how they can.
  using Decide = std::function<Verdict(const TokenClass&)>;

  // `listed` as in find_anchors. All that is given has to outlive the run.
  Run(NodeTable& table, const Rules& rules, MetaSource& source, std::vector<NodeId> listed = {});

  // One call for each group that the all_reduces name, in the order of set_groups.
  [[nodiscard]] const std::vector<NodeId>& group_examples() const { return group_examples_; }
  // The names of the groups that other collectives name, and no all_reduce.
  [[nodiscard]] std::vector<std::string> other_groups() const;
  // Whether a value is shown to be each rank's own in some group, once it is matched.
  [[nodiscard]] bool is_own(NodeId value) const {
    SPFAST_CHECK(replication_.has_value() && value < table_.size());
    return replication_->is_own_anywhere(value);
  }
  // Whether the graph writes to the memory of a value, once it is matched, and what is a rank's
  // own.
  [[nodiscard]] bool is_written(NodeId value) const {
    SPFAST_CHECK(effects_.has_value() && value < table_.size());
    return effects_->is_written(value);
  }
  [[nodiscard]] bool is_written_own(NodeId value) const {
    SPFAST_CHECK(replication_.has_value() && value < table_.size());
    return replication_->is_written_own(value);
  }
  // Whether a value is a rank's own by what reads it.
  [[nodiscard]] bool is_shown_by_readers(NodeId value) const {
    SPFAST_CHECK(replication_.has_value() && value < table_.size());
    return replication_->is_shown_by_readers(value);
  }
  // Size, rank and problem of each group, and how it lies to others; the name is the graph's. The
  // other groups may follow: of those only the latter counts.
  void set_groups(std::span<const GroupInfo> infos);
  void match(RunOptions options);
  // Plans until nothing that is needed is unknown. `decide` is asked for each class that was
  // neither refused nor padded yet, as often as sites are examined.
  void plan(const Decide& decide);

  [[nodiscard]] const std::vector<GroupInfo>& groups() const { return groups_; }
  [[nodiscard]] const MatchResult& matches() const { return matches_; }
  [[nodiscard]] const Sites& sites() const { return sites_; }
  [[nodiscard]] const Plan& made() const { return plan_; }
  // One for each all_reduce, in graph order.
  [[nodiscard]] std::vector<SiteReport> reports();
  // What the plan takes on trust.
  [[nodiscard]] std::vector<Assumption> assumptions() const;

 private:
  [[nodiscard]] std::variant<Plan, Unknown> attempt(const Decide& decide);
  [[nodiscard]] bool judge_classes(const Decide& decide);
  [[nodiscard]] Unknown unknown_values(const Plan& plan);
  void learn(const Unknown& unknown);
  void read_sizes();

  NodeTable& table_;
  const Rules& rules_;
  MetaSource& source_;
  std::vector<NodeId> listed_;
  std::vector<GroupInfo> groups_;
  std::vector<NodeId> group_examples_;
  RunOptions options_;
  Costs costs_;
  MatchResult matches_;
  std::optional<Effects> effects_;
  std::optional<Replication> replication_;
  bool examined_ = false;  // the sites are as all that is known makes them
  Sites sites_;
  std::vector<JudgedClass> judged_;
  std::vector<HeldSite> held_;
  Plan plan_;
};

}  // namespace spfast
