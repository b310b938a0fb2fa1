// One run over one graph that makes one operator of collectives and the products beside them.
#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include "base/check.h"
#include "bind/bind.h"
#include "fx/commit.h"
#include "fx/encode.h"
#include "fx/graph_metas.h"
#include "fx/named_tuple.h"
#include "fx/pair_values.h"
#include "pairs/pair_writer.h"
#include "pairs/planner.h"

namespace spfast {
namespace {

CollectiveForm read_collective(py::handle from) {
  CollectiveForm form;
  form.target = intern_target(from.attr("operator").cast<std::string>());
  form.gathers = from.attr("gathers").cast<bool>();
  const py::object wait = from.attr("wait");
  if (!wait.is_none()) form.wait = intern_target(wait.cast<std::string>());
  form.slots = read_collective_args(from.attr("slots"));
  form.names = from.attr("names").cast<std::vector<std::string>>();
  return form;
}

const fx::NamedTuple<3>& planned_pair() {
  static const auto& type =
      *new fx::NamedTuple<3>("spfast._core.PlannedPair",
                             "A collective and the products beside it, by name, and the place of "
                             "what is created for them.",
                             {"collective", "products", "created"});
  return type;
}

class NativePairRun {
 public:
  // `operators`: FusedOperators of spfast.async_tp.operators.
  NativePairRun(py::object graph, const py::iterable& forms, py::handle operators)
      : graph_(std::move(graph)), encoded_(fx::encode(graph_, {})), metas_(encoded_) {
    for (const py::handle form : forms) forms_.push_back(read_collective(form));
    given_.append(py::none());
    given_.append(py::bool_(false));
    given_.append(py::bool_(true));
    read_layout(operators.attr("gather"), operators_.gather);
    read_layout(operators.attr("scaled_gather"), operators_.scaled_gather);
    read_layout(operators.attr("scatter"), operators_.scatter);
    const py::tuple scaled = operators.attr("scaled_scatter");
    SPFAST_CHECK(scaled.size() == std::size(operators_.scaled_scatter));
    for (size_t i = 0; i < scaled.size(); ++i) read_layout(scaled[i], operators_.scaled_scatter[i]);
    operators_.symbolic_shape = operators.attr("symbolic_shape").cast<bool>();
  }

  // `group` is called with a group as the graph spells it. It returns why its collectives stay, and
  // the group's name. `worth` is called with that group, what the first product multiplies, tokens
  // and features. It returns why the pair stays.
  void plan(const py::object& group, const py::object& worth) {
    const PairPolicy policy{[&](Argument value, NodeId call) {
                              groups_.emplace(argument_key(value), group_object(value, call));
                              const py::tuple answer = group(groups_.at(argument_key(value)));
                              given_.append(answer[1]);
                              return PairPolicy::Group{answer[0].cast<std::string>(),
                                                       static_cast<uint32_t>(given_.size() - 1)};
                            },
                            [&](Argument value, NodeId operand, Dim tokens, Dim features) {
                              return worth(groups_.at(argument_key(value)), encoded_.nodes[operand],
                                           size_of(tokens), size_of(features))
                                  .cast<std::string>();
                            }};
    plan_ = plan_pairs(encoded_.table, metas_, forms_, operators_, policy);
  }

  // A planned_pair() each.
  [[nodiscard]] py::list fused() const {
    py::list out;
    for (const PlannedPair& pair : plan_.pairs) {
      py::tuple products(pair.products.size());
      for (size_t i = 0; i < pair.products.size(); ++i) {
        products[i] = encoded_.name(pair.products[i]);
      }
      out.append(planned_pair().make(encoded_.name(pair.collective), products, pair.fused));
    }
    return out;
  }

  // The name of each collective that is left, and why it is.
  [[nodiscard]] std::vector<std::pair<py::object, std::string>> left() const {
    std::vector<std::pair<py::object, std::string>> out;
    for (const LeftCollective& one : plan_.left) out.emplace_back(encoded_.name(one.call), one.why);
    return out;
  }

  // Makes the edits; returns the journal that takes them back.
  py::object commit(const py::object& make) {
    const py::list values = fx::make_pair_values(encoded_, plan_, make);
    return fx::commit(graph_, encoded_, plan_.plan, {values, py::list(), py::list(), given_},
                      fx::find_targets(plan_.plan));
  }

  [[nodiscard]] std::string plan_text() {
    encoded_.read_names();
    return format_plan(encoded_.table, plan_.plan);
  }

 private:
  void read_layout(py::handle from, FusedLayout& layout) {
    if (from.is_none()) return;
    layout.target = intern_target(from.attr("target").cast<std::string>());
    for (const py::handle argument : from.attr("arguments")) {
      const auto name = argument.attr("name").cast<std::string>();
      FusedSlot slot;
      if (argument.attr("by_keyword").cast<bool>()) slot.keyword = name;
      if (argument.attr("given").cast<bool>()) {
        slot.argument = fused_argument(name);
      } else {
        slot.fallback = static_cast<uint32_t>(given_.size());
        given_.append(py::object(argument.attr("default")));
      }
      layout.slots.push_back(std::move(slot));
    }
  }

  // The group as the call spells it: among its arguments it is the one that was read as this value.
  [[nodiscard]] py::object group_object(Argument value, NodeId call) const {
    const auto args = encoded_.table.args(call);
    const py::tuple given = encoded_.nodes[call].attr("args");
    for (size_t i = 0; i < args.size(); ++i) {
      if (args[i] == value) return given[i];
    }
    const auto pairs = encoded_.table.kwargs(call);
    const py::dict named = encoded_.nodes[call].attr("kwargs");
    for (size_t i = 0; i + 1 < pairs.size(); i += 2) {
      if (pairs[i + 1] != value) continue;
      return named[py::str(encoded_.table.string(pairs[i].payload))];
    }
    return py::none();
  }

  [[nodiscard]] py::object size_of(Dim dim) const {
    return dim.is_expr() ? encoded_.metas.symbols().at(dim.expr_id())
                         : py::object(py::int_(dim.raw));
  }

  py::object graph_;
  fx::EncodedGraph encoded_;
  fx::GraphMetas metas_;
  std::vector<CollectiveForm> forms_;
  FusedOperators operators_;
  py::list given_;
  std::unordered_map<uint64_t, py::object> groups_;
  PairPlan plan_;
};

}  // namespace

void bind_pairs(py::module_& module) {
  module.attr("PlannedPair") = planned_pair().type();
  py::class_<NativePairRun>(module, "NativePairRun",
                            "Collectives and the products beside them, one graph.")
      .def(py::init<py::object, const py::iterable&, py::handle>(), py::arg("graph"),
           py::arg("forms"), py::arg("operators"))
      .def("plan", &NativePairRun::plan, py::arg("group"), py::arg("worth"))
      .def("fused", &NativePairRun::fused)
      .def("left", &NativePairRun::left)
      .def("commit", &NativePairRun::commit, py::arg("make"))
      .def("plan_text", &NativePairRun::plan_text);
}

}  // namespace spfast
