// One run of the pass over one graph: casts between Python and rewrite/run.h.
// Python answers what the core cannot know in between: which ranks a group has, whether a symbolic
// number of tokens is divisible, what meta["val"] of a new node is.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <vector>

#include "fx/encode.h"
#include "fx/graph_metas.h"
#include "fx/values.h"
#include "rewrite/run.h"

namespace spfast {

namespace py = pybind11;

class NativeRun {
 public:
  // Encodes the graph. `listed` are calls of all_reduces in place or of several tensors that count
  // as plain ones: nobody else sees what they write to, and every part of a result is taken once,
  // by a getitem.
  NativeRun(py::object graph, std::shared_ptr<const Rules> rules,
            const std::vector<py::object>& listed);

  // The groups that the all_reduces name, each once, as the graph spells them.
  [[nodiscard]] py::list groups() const;
  // The names of the groups that only other collectives name.
  [[nodiscard]] std::vector<std::string> other_groups() const { return run_.other_groups(); }
  // What is known of each of them; the other groups may follow.
  void set_groups(const std::vector<GroupInfo>& infos) { run_.set_groups(infos); }
  // What other graphs say, by place; all are sorted.
  struct Across {
    std::vector<NodeId> own;      // values that they show to be each rank's own
    std::vector<NodeId> writers;  // calls that write such values
    CallEffects calls;            // what is known of the calls
  };
  // With the rules, and whether plan() follows row-wise operators too. `replicated`: inputs, by
  // their place in the graph, that all ranks have the same. `local_outputs`: which of the values
  // that the graph returns it may return as this rank's rows. `numbers`: inputs, by place, that are
  // numbers and no input's size.
  void match(bool patterns, bool rowwise, bool gather_bytes, bool trust_unknown,
             std::vector<NodeId> replicated, std::vector<NodeId> numbers, int64_t collective_cost,
             std::vector<size_t> local_outputs, const Across& across);
  // Whether the value at a place of the graph is shown to be each rank's own, once it is matched.
  [[nodiscard]] bool is_own(NodeId place) const { return run_.is_own(place); }
  // Likewise, by what reads the value.
  [[nodiscard]] bool is_shown_by_readers(NodeId place) const {
    return run_.is_shown_by_readers(place);
  }
  // Whether the graph writes to the memory of the value at a place, and a rank's own value.
  [[nodiscard]] bool is_written(NodeId place) const { return run_.is_written(place); }
  [[nodiscard]] bool is_written_own(NodeId place) const { return run_.is_written_own(place); }
  // `decide`, of tokens as an int or SymInt and the index of a group, says why they cannot be
  // shared ("": they can), and whether they are padded for it.
  void plan(const py::object& decide);
  struct Tokens {
    py::object tokens;
    uint32_t group = 0;  // its place
    bool shared = false;
    bool padded = false;
  };
  // One for each class of the plan.
  [[nodiscard]] std::vector<Tokens> classes() const;
  [[nodiscard]] fx::ValueSpecs value_specs() const;
  py::object commit(const py::list& created, const py::list& resized, const py::list& described);

  // The collective call behind each of the reports.
  [[nodiscard]] py::list calls() const;
  // A SiteReport by name.
  struct Report {
    py::object node;
    bool rewritten = false;
    std::string rule;
    std::string reason;
    std::string nearest;
  };
  // One for each all_reduce.
  [[nodiscard]] std::vector<Report> reports();
  // What the plan takes on trust: an Assumption by names each.
  [[nodiscard]] py::list assumptions() const;
  // The sums over tokens of which each rank computes its part, and which an all_reduce finishes.
  [[nodiscard]] py::list totals() const;
  [[nodiscard]] size_t planned_sites() const { return run_.sites().rewritten(); }
  [[nodiscard]] std::string plan_text();
  [[nodiscard]] uint32_t size() const { return encoded_.table.size(); }

 private:
  [[nodiscard]] py::object tokens_of(const TokenClass& one) const;

  py::object graph_;
  std::shared_ptr<const Rules> rules_;
  fx::EncodedGraph encoded_;
  fx::GraphMetas metas_;
  Run run_;
};

}  // namespace spfast
