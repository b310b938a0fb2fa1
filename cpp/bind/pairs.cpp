// One run over one graph that makes one operator of collectives and the products beside them.
#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include "bind/bind.h"
#include "fx/commit.h"
#include "fx/encode.h"
#include "fx/graph_metas.h"
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

class NativePairRun {
 public:
  // `operators`: the layouts of spfast.async_tp.symmetric, and whether shapes may be symbolic.
  NativePairRun(py::object graph, const py::iterable& forms, const py::sequence& operators)
      : graph_(std::move(graph)), encoded_(fx::encode(graph_, {})), metas_(encoded_) {
    for (const py::handle form : forms) forms_.push_back(read_collective(form));
    given_.append(py::none());
    given_.append(py::bool_(false));
    given_.append(py::bool_(true));
    size_t at = 0;
    for (FusedLayout* layout : {&operators_.gather, &operators_.scaled_gather, &operators_.scatter,
                                &operators_.scaled_scatter[0], &operators_.scaled_scatter[1],
                                &operators_.scaled_scatter[2], &operators_.scaled_scatter[3]}) {
      read_layout(operators[at++], *layout);
    }
    operators_.symbolic_shape = operators[at].cast<bool>();
  }

  // `group`, of a group as the graph spells it, returns why its collectives stay, and its name;
  // `worth`, of that group, what the first product multiplies, tokens and features, why a pair
  // does.
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

  // (collective, products, the created node's place) of each pair, and (collective, why) of what is
  // left; by their names.
  [[nodiscard]] py::tuple found() const {
    py::list fused;
    for (const PlannedPair& pair : plan_.pairs) {
      py::tuple products(pair.products.size());
      for (size_t i = 0; i < pair.products.size(); ++i) {
        products[i] = encoded_.name(pair.products[i]);
      }
      fused.append(py::make_tuple(encoded_.name(pair.collective), products, pair.fused));
    }
    py::list left;
    for (const LeftCollective& one : plan_.left) {
      left.append(py::make_tuple(encoded_.name(one.call), one.why));
    }
    return py::make_tuple(fused, left);
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
    const auto parts = py::reinterpret_borrow<py::tuple>(from);
    layout.target = intern_target(parts[0].cast<std::string>());
    for (const py::handle item : parts[1]) {
      const auto row = py::reinterpret_borrow<py::tuple>(item);
      const auto name = row[0].cast<std::string>();
      FusedSlot slot;
      if (row[1].cast<bool>()) slot.keyword = name;
      if (row[2].cast<bool>()) {
        slot.argument = fused_argument(name);
      } else {
        slot.fallback = static_cast<uint32_t>(given_.size());
        given_.append(py::object(row[3]));
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
  py::class_<NativePairRun>(module, "NativePairRun",
                            "Collectives and the products beside them, one graph.")
      .def(py::init<py::object, const py::iterable&, const py::sequence&>(), py::arg("graph"),
           py::arg("forms"), py::arg("operators"))
      .def("plan", &NativePairRun::plan, py::arg("group"), py::arg("worth"))
      .def("found", &NativePairRun::found)
      .def("commit", &NativePairRun::commit, py::arg("make"))
      .def("plan_text", &NativePairRun::plan_text);
}

}  // namespace spfast
