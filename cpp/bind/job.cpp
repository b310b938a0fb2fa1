#include "bind/job.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <unordered_set>

#include "base/check.h"
#include "bind/bind.h"
#include "fx/commit.h"
#include "fx/values.h"
#include "rewrite/assumptions.h"
#include "rewrite/planner.h"
#include "rewrite/region_ends.h"
#include "table/targets.h"

namespace spfast {
namespace {

fx::EncodedGraph encode_graph(py::handle graph, const Rules& rules,
                              std::span<const py::object> listed) {
  std::vector<TargetId> targets;
  for (const AllReduceFamily& family : rules.anchors) targets.push_back(family.all_reduce);
  fx::EncodeOptions options;
  options.meta_of = targets;
  options.pure = listed;
  return fx::encode(graph, options);
}

// What an all_reduce that the row-wise view took is reported under.
constexpr const char* kRowwise = "rowwise";

const char* outcome_text(Outcome outcome) {
  switch (outcome) {
    case Outcome::kMatched:
      return "";
    case Outcome::kNoMatch:
      return "no rule matches what reads it";
    case Outcome::kNoWait:
      return "its result is not read by one wait_tensor alone";
    case Outcome::kClaimed:
      return "another all_reduce's site has the operations that read it";
    case Outcome::kUnknownSize:
      return "its size is not known, or it has no token dim: meta[\"val\"] of the all_reduce "
             "must be a tensor of two dims, or of more whose last one is a plain number";
    case Outcome::kKeywords:
      return "its tensor, its group or its reduce op is not given by position";
    case Outcome::kGroup:
      return "its group is computed in the graph: only the ranks of a constant one are known";
    case Outcome::kTooMany:
      return "its value is read in more ways than are tried: too many of its users are alike";
  }
  return "";
}

}  // namespace

Job::Job(py::object graph, std::shared_ptr<const Rules> rules,
         const std::vector<py::object>& listed)
    : graph_(std::move(graph)),
      rules_(std::move(rules)),
      encoded_(encode_graph(graph_, *rules_, listed)) {
  std::unordered_set<uint64_t> known;
  std::vector<NodeId> parts;
  for (const Anchor& anchor : find_anchors(encoded_.table, rules_->anchors, encoded_.pure)) {
    if (anchor.call != anchor.all_reduce) parts.push_back(anchor.all_reduce);
    if (!is_group(anchor.group)) continue;
    if (!known.insert(value_key(anchor.group)).second) continue;
    groups_.push_back({anchor.group, 0, 0, {}});
    group_examples_.push_back(anchor.call);
  }
  encoded_.metas.read_all(encoded_.table, parts, encoded_.nodes);
}

py::list Job::groups() const {
  py::list out;
  for (const NodeId example : group_examples_) {
    const TargetId target = encoded_.table.target(example);
    const auto family =
        std::find_if(rules_->anchors.begin(), rules_->anchors.end(),
                     [&](const AllReduceFamily& one) { return one.all_reduce == target; });
    SPFAST_CHECK(family != rules_->anchors.end());
    if (family->group < 0) {
      out.append(py::none());
      continue;
    }
    const py::tuple args = encoded_.nodes[example].attr("args");
    out.append(py::object(args[static_cast<size_t>(family->group)]));
  }
  return out;
}

void Job::set_groups(const py::sequence& infos) {
  SPFAST_CHECK(infos.size() == groups_.size());
  for (size_t i = 0; i < groups_.size(); ++i) {
    const py::tuple info = infos[i];
    groups_[i].size = info[0].cast<int64_t>();
    groups_[i].rank = info[1].cast<int64_t>();
    groups_[i].problem = info[2].cast<std::string>();
  }
}

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

}  // namespace

void Job::match(bool patterns, bool rowwise, bool gather_bytes, bool trust_unknown,
                const py::sequence& replicated, int64_t collective_cost,
                const std::vector<size_t>& local_outputs) {
  Trust trust{trust_unknown, {}};
  for (const py::handle place : replicated) {
    trust.replicated.push_back(place.cast<NodeId>());
    SPFAST_CHECK(trust.replicated.back() < encoded_.table.size());
  }
  static const ProgramSet kNoPrograms;
  const py::gil_scoped_release released;
  matches_ = find_matches(encoded_.table, patterns ? rules_->programs : kNoPrograms,
                          rules_->anchors, encoded_.pure);
  patterns_ = patterns;
  rowwise_ = rowwise;
  gather_bytes_ = gather_bytes;
  costs_.collective = collective_cost;
  // A flattened stream has other rows than what its caller knows.
  const bool flat =
      std::all_of(matches_.anchors.begin(), matches_.anchors.end(), [&](const Anchor& anchor) {
        return encoded_.table.dims(encoded_.table.meta(anchor.all_reduce)).size() == 2;
      });
  if (flat) costs_.local_outputs = returned(encoded_.table, local_outputs);
  effects_.emplace(encoded_.table);
  replication_.emplace(encoded_.table, *effects_, rules_->rows, rules_->families, groups_,
                       std::move(trust));
}

void Job::read_missing(std::vector<NodeId>& missing) {
  encoded_.metas.read_all(encoded_.table, missing, encoded_.nodes);
  missing.clear();
}

void Job::examine() {
  while (true) {
    {
      const py::gil_scoped_release released;
      sites_ =
          examine_sites(encoded_.table, rules_->programs, matches_, groups_, refused_, *effects_,
                        *replication_, unknown_, rowwise_ ? &rules_->rows : nullptr, costs_);
    }
    if (sites_.missing.empty()) break;
    read_missing(sites_.missing);
  }
  sites_.gather_bytes = gather_bytes_;
}

py::list Job::classes() const {
  py::list out;
  for (const TokenClass& one : sites_.classes) {
    py::object tokens = py::none();
    if (one.refused.empty()) {
      tokens = one.tokens.is_expr() ? encoded_.metas.symbols().at(one.tokens.expr_id())
                                    : py::object(py::int_(one.tokens.raw));
    }
    out.append(py::make_tuple(tokens, one.group));
  }
  return out;
}

void Job::refuse_class(uint32_t index, std::string why) {
  const TokenClass& one = sites_.classes.at(index);
  refused_.push_back({one.tokens, one.group, std::move(why)});
}

bool Job::refuse_nodes(const py::sequence& nodes) {
  std::unordered_set<PyObject*> wanted;
  for (const py::handle node : nodes) wanted.insert(node.ptr());
  std::vector<bool> refused(encoded_.nodes.size(), false);
  for (size_t i = 0; i < refused.size(); ++i) refused[i] = wanted.contains(encoded_.nodes[i].ptr());
  const auto is_refused = [&](NodeId id) { return id < refused.size() && refused[id]; };
  bool any = false;
  for (const Site& site : sites_.sites) {
    if (!site.reason.empty() || !site.scatters) continue;
    NodeId why = matches_.anchors[site.anchor].reduced;
    const auto look = [&](NodeId id) {
      if (!is_refused(why) && is_refused(id)) why = id;
    };
    for (const NodeId id : site.interior) look(id);
    for (const SiteOperand& one : site.operands) {
      look(one.root);
      look(one.name);
    }
    if (!is_refused(why)) continue;
    unknown_.push_back({site.anchor, why});
    any = true;
  }
  return any;
}

void Job::plan() {
  std::vector<NodeId> missing;
  while (true) {
    {
      const py::gil_scoped_release released;
      plan_ = make_plan(encoded_.table, rules_->programs, matches_, rules_->families, groups_,
                        sites_, *effects_, missing);
    }
    // Values that have no meta stay unknown: asking again would not end.
    std::erase_if(
        missing, [&](NodeId node) { return encoded_.table.meta(node).kind != MetaKind::kUnknown; });
    if (missing.empty()) return;
    read_missing(missing);
  }
}

py::tuple Job::value_specs() {
  std::vector<NodeId> unread;
  for (const MetaSpec& one : plan_.metas) unread.push_back(one.like);
  for (const Created& one : plan_.created) {
    if (one.meta.like != kNone) unread.push_back(one.meta.like);
  }
  encoded_.metas.read_all(encoded_.table, unread, encoded_.nodes);
  const auto spec = [&](const MetaSpec& meta) {
    // Nodes with one meta have values that are alike.
    const uint32_t known = encoded_.table.meta_id(meta.like);
    const MetaKind kind = encoded_.table.meta(meta.like).kind;
    const bool alike = kind == MetaKind::kTensor || kind == MetaKind::kTuple;
    return py::make_tuple(static_cast<int>(meta.form), encoded_.nodes[meta.like], meta.token_class,
                          meta.factor, alike ? int64_t{known} : -1);
  };
  py::list created(plan_.created.size());
  for (size_t i = 0; i < plan_.created.size(); ++i) created[i] = spec(plan_.created[i].meta);
  py::list resized(plan_.metas.size());
  for (size_t i = 0; i < plan_.metas.size(); ++i) resized[i] = spec(plan_.metas[i]);
  return py::make_tuple(created, resized);
}

py::object Job::commit(const py::list& created, const py::list& resized,
                       const py::list& described) {
  SPFAST_CHECK(created.size() == plan_.created.size() && resized.size() == plan_.metas.size() &&
               described.size() == plan_.metas.size());
  fx::TargetObjects targets;
  const py::object resolve = py::module_::import("spfast.targets").attr("resolve");
  for (const Created& made : plan_.created) {
    if (!targets.contains(made.target)) targets[made.target] = resolve(target_name(made.target));
  }
  return fx::commit(graph_, encoded_, plan_, {created, resized, described}, targets);
}

std::string Job::reason_of(const Site& site) { return text_of(site.reason); }

std::string Job::text_of(const Reason& reason) {
  return format_reason(encoded_.table, groups_, sites_.classes, reason);
}

py::list Job::calls() const {
  py::list out;
  for (const Anchor& anchor : matches_.anchors) out.append(encoded_.nodes[anchor.call]);
  return out;
}

py::list Job::reports() {
  const bool any_left = planned_sites() < matches_.anchors.size();
  const std::map<uint32_t, Reason> ends = region_ends(encoded_.table, matches_, sites_);
  if (any_left || !ends.empty()) encoded_.read_names();  // reasons are formatted with them
  // The row-wise view of the all_reduces, where it had a look at them.
  std::vector<const Site*> row_sites(matches_.anchors.size(), nullptr);
  for (const Site& site : sites_.sites) {
    if (site.match == kNone && site.scatters) row_sites[site.anchor] = &site;
  }
  py::list out;
  for (size_t i = 0; i < matches_.anchors.size(); ++i) {
    const AnchorReport& report = matches_.reports[i];
    std::string rule;
    std::string reason = outcome_text(report.outcome);
    std::string nearest;
    bool rewritten = false;
    if (report.outcome == Outcome::kMatched) {
      const Site& site = sites_.sites.at(report.match);
      rule = rules_->programs.rules()[matches_.matches[report.match].rule].name;
      rewritten = site.reason.empty();
      if (!rewritten) reason = reason_of(site);
    }
    if (!rewritten) {
      const Site* row = row_sites[i];
      if (row != nullptr && row->reason.empty()) {
        rewritten = true;
        rule = kRowwise;
      } else if (row != nullptr && report.outcome != Outcome::kMatched) {
        // Neither recogniser knows its reader: both say so.
        const bool unknown = patterns_ && report.outcome == Outcome::kNoMatch &&
                             (row->reason.kind == Reason::Kind::kNeedsAll ||
                              row->reason.kind == Reason::Kind::kNoGain);
        reason = (unknown ? reason + ", and " : "") + reason_of(*row);
      }
    }
    if (!rewritten && report.outcome == Outcome::kNoMatch && report.failure.rule != kNone) {
      nearest = format_failure(encoded_.table, rules_->programs, report.failure);
    }
    if (rewritten) {
      const auto end = ends.find(static_cast<uint32_t>(i));
      reason = end == ends.end() ? std::string() : text_of(end->second);
    }
    out.append(py::make_tuple(encoded_.name(matches_.anchors[i].all_reduce), rewritten, rule,
                              reason, nearest));
  }
  return out;
}

py::list Job::assumptions() {
  const std::vector<Assumption> found =
      find_assumptions(encoded_.table, matches_.anchors, sites_, *replication_);
  py::list out;
  for (const Assumption& one : found) {
    out.append(py::make_tuple(encoded_.name(one.value), encoded_.name(one.reader), one.group));
  }
  return out;
}

size_t Job::planned_sites() const {
  return static_cast<size_t>(
      std::count_if(sites_.sites.begin(), sites_.sites.end(),
                    [](const Site& site) { return site.scatters && site.reason.empty(); }));
}

std::string Job::plan_text() {
  encoded_.read_names();
  return format_plan(encoded_.table, plan_);
}

void bind_job(py::module_& module) {
  module.def("make_values", &fx::make_values, py::arg("maker"), py::arg("created"),
             py::arg("resized"));
  py::class_<Job>(module, "Job", "One run of the pass over one graph, step by step.")
      .def(py::init<py::object, std::shared_ptr<Rules>, const std::vector<py::object>&>(),
           py::arg("graph"), py::arg("rules"), py::arg("listed") = std::vector<py::object>())
      .def("groups", &Job::groups)
      .def("set_groups", &Job::set_groups, py::arg("infos"))
      .def("match", &Job::match, py::arg("patterns") = true, py::arg("rowwise") = false,
           py::arg("gather_bytes") = false, py::arg("trust_unknown") = true,
           py::arg("replicated") = py::tuple(), py::arg("collective_cost") = Costs{}.collective,
           py::arg("local_outputs") = std::vector<size_t>())
      .def("assumptions", &Job::assumptions)
      .def("examine", &Job::examine)
      .def("classes", &Job::classes)
      .def("refuse_class", &Job::refuse_class, py::arg("index"), py::arg("why"))
      .def("refuse_nodes", &Job::refuse_nodes, py::arg("nodes"))
      .def("plan", &Job::plan)
      .def("value_specs", &Job::value_specs)
      .def("commit", &Job::commit, py::arg("created"), py::arg("resized"), py::arg("described"))
      .def("calls", &Job::calls)
      .def("reports", &Job::reports)
      .def("planned_sites", &Job::planned_sites)
      .def("plan_text", &Job::plan_text)
      .def("__len__", &Job::size);
}

}  // namespace spfast
