// One run of the pass over one graph, in the steps of the design: encode, match, plan, commit.
// Python answers what the core cannot know in between: which ranks a group has, whether a symbolic
// number of tokens is divisible, what meta["val"] of a new node is.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bind/rules.h"
#include "fx/encode.h"
#include "match/finder.h"
#include "rewrite/effects.h"
#include "rewrite/plan.h"
#include "rewrite/replication.h"
#include "rewrite/sites.h"

namespace spfast {

namespace py = pybind11;

class Job {
 public:
  // Encodes the graph. `listed` are its calls of all_reduces in place or of several tensors that
  // are all_reduces like any other: what they write to nobody else sees, and every part of a result
  // is taken once, by a getitem.
  Job(py::object graph, std::shared_ptr<const Rules> rules,
      const std::vector<py::object>& listed = {});

  // The groups that the all_reduces name, each once, as the graph spells them.
  [[nodiscard]] py::list groups() const;
  // For each of them (size, rank, problem); a problem that is not empty leaves its sites alone.
  void set_groups(const py::sequence& infos);
  // With the rules, and whether examine() follows row-wise operators too. `replicated`: inputs, by
  // their place in the graph, that all ranks have the same. `local_outputs`: which of the values
  // that the graph returns it may return as this rank's rows.
  void match(bool patterns, bool rowwise, bool gather_bytes, bool trust_unknown,
             const py::sequence& replicated, int64_t collective_cost,
             const std::vector<size_t>& local_outputs);
  // Finds the sites and their token classes; reads what it needs to know of values.
  void examine();
  // (tokens as an int or SymInt, index of the group) of each class that was not refused.
  [[nodiscard]] py::list classes() const;
  void refuse_class(uint32_t index, std::string why);
  // Nodes whose values turned out to be unknown: the sites that they are in stay.
  bool refuse_nodes(const py::sequence& nodes);
  void plan();
  // (form, node that it is like, class, factor, alike) of each created and each resized node.
  [[nodiscard]] py::tuple value_specs();
  py::object commit(const py::list& created, const py::list& resized, const py::list& described);

  // The collective call behind each of the reports.
  [[nodiscard]] py::list calls() const;
  // (node, whether it is rewritten, rule, reason, nearest) of each all_reduce.
  [[nodiscard]] py::list reports();
  // (value, the first that reads it beside a shard, group's index) of what the plan takes on trust.
  [[nodiscard]] py::list assumptions();
  [[nodiscard]] size_t planned_sites() const;
  [[nodiscard]] std::string plan_text();
  [[nodiscard]] uint32_t size() const { return encoded_.table.size(); }

 private:
  void read_missing(std::vector<NodeId>& missing);
  [[nodiscard]] std::string reason_of(const Site& site);
  [[nodiscard]] std::string text_of(const Reason& reason);

  py::object graph_;
  std::shared_ptr<const Rules> rules_;
  fx::EncodedGraph encoded_;
  std::vector<GroupInfo> groups_;
  std::vector<NodeId> group_examples_;
  MatchResult matches_;
  std::optional<Effects> effects_;
  std::optional<Replication> replication_;
  Sites sites_;
  std::vector<RefusedClass> refused_;
  std::vector<UnknownValue> unknown_;
  bool rowwise_ = false;
  bool gather_bytes_ = false;
  Costs costs_;
  bool patterns_ = true;
  Plan plan_;
};

}  // namespace spfast
