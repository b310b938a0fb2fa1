#include "bind/native_run.h"

#include <pybind11/stl.h>

#include <algorithm>

#include "base/check.h"
#include "bind/bind.h"
#include "fx/commit.h"
#include "fx/named_tuple.h"
#include "fx/values.h"
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

const fx::NamedTuple<3>& assumption() {
  static const auto& type = *new fx::NamedTuple<3>(
      "spfast._core.Assumption",
      "A value taken to be the same on every rank, the first node that reads "
      "it beside a shard, and the group's index.",
      {"value", "reader", "group"});
  return type;
}

}  // namespace

NativeRun::NativeRun(py::object graph, std::shared_ptr<const Rules> rules,
                     const std::vector<py::object>& listed)
    : graph_(std::move(graph)),
      rules_(std::move(rules)),
      encoded_(encode_graph(graph_, *rules_, listed)),
      metas_(encoded_),
      run_(encoded_.table, *rules_, metas_, encoded_.pure) {}

py::list NativeRun::groups() const {
  py::list out;
  for (const NodeId example : run_.group_examples()) {
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

void NativeRun::match(bool patterns, bool rowwise, bool gather_bytes, bool trust_unknown,
                      std::vector<NodeId> replicated, std::vector<NodeId> numbers,
                      int64_t collective_cost, std::vector<size_t> local_outputs,
                      const Across& across) {
  const py::gil_scoped_release released;
  run_.match({.patterns = patterns,
              .rowwise = rowwise,
              .gather_bytes = gather_bytes,
              .trust = {trust_unknown, std::move(replicated), across.own, across.writers,
                        std::move(numbers)},
              .calls = across.calls,
              .collective_cost = collective_cost,
              .local_outputs = std::move(local_outputs)});
}

void NativeRun::plan(const py::object& decide) {
  const py::gil_scoped_release released;
  run_.plan([&](const TokenClass& one) {
    const py::gil_scoped_acquire locked;
    const auto said = decide(tokens_of(one), one.group).cast<std::pair<std::string, bool>>();
    return Verdict{said.first, said.second};
  });
}

py::object NativeRun::tokens_of(const TokenClass& one) const {
  return one.tokens.is_expr() ? encoded_.metas.symbols().at(one.tokens.expr_id())
                              : py::object(py::int_(one.tokens.raw));
}

std::vector<NativeRun::Tokens> NativeRun::classes() const {
  std::vector<Tokens> out;
  for (const TokenClass& one : run_.sites().classes) {
    out.push_back({tokens_of(one), one.group, one.refused.empty(), one.padded});
  }
  return out;
}

fx::ValueSpecs NativeRun::value_specs() const {
  const NodeTable& table = encoded_.table;
  const auto spec = [&](const MetaSpec& meta) {
    // Nodes with one meta have values of one kind.
    const MetaKind kind = table.meta(meta.like).kind;
    const bool alike = kind == MetaKind::kTensor || kind == MetaKind::kTuple;
    return fx::ValueSpec{meta.form, encoded_.nodes[meta.like], meta.token_class, meta.factor,
                         alike ? int64_t{table.meta_id(meta.like)} : -1};
  };
  const Plan& plan = run_.made();
  fx::ValueSpecs out;
  out.created.reserve(plan.created.size());
  for (const Created& one : plan.created) out.created.push_back(spec(one.meta));
  out.resized.reserve(plan.metas.size());
  for (const MetaSpec& one : plan.metas) out.resized.push_back(spec(one));
  return out;
}

py::object NativeRun::commit(const py::list& created, const py::list& resized,
                             const py::list& described) {
  const Plan& plan = run_.made();
  SPFAST_CHECK(created.size() == plan.created.size() && resized.size() == plan.metas.size() &&
               described.size() == plan.metas.size());
  return fx::commit(graph_, encoded_, plan, {created, resized, described}, fx::find_targets(plan));
}

py::list NativeRun::calls() const {
  py::list out;
  for (const Anchor& anchor : run_.matches().anchors) out.append(encoded_.nodes[anchor.call]);
  return out;
}

std::vector<NativeRun::Report> NativeRun::reports() {
  std::vector<Report> out;
  for (SiteReport& one : run_.reports()) {
    out.push_back({encoded_.name(one.all_reduce), one.rewritten, std::move(one.rule),
                   std::move(one.reason), std::move(one.nearest)});
  }
  return out;
}

py::list NativeRun::assumptions() const {
  py::list out;
  for (const Assumption& one : run_.assumptions()) {
    out.append(assumption().make(encoded_.name(one.value), encoded_.name(one.reader), one.group));
  }
  return out;
}

py::list NativeRun::totals() const {
  const Sites& sites = run_.sites();
  py::list out;
  for (const TokenSum& sum : sites.layout.sums) {
    const bool planned = std::any_of(sites.sites.begin(), sites.sites.end(), [&](const Site& one) {
      return !one.scatters && one.reason.empty() &&
             std::binary_search(one.interior.begin(), one.interior.end(), sum.node);
    });
    if (planned) out.append(encoded_.name(sum.node));
  }
  return out;
}

std::string NativeRun::plan_text() {
  encoded_.read_names();
  return format_plan(encoded_.table, run_.made());
}

namespace {

void bind_groups(py::module_& module) {
  py::class_<GroupInfo>(module, "GroupInfo",
                        "A group: why its sites stay, where that is not empty, and the places of "
                        "those that it lies within and that it crosses.")
      .def(py::init([](int64_t size, int64_t rank, std::string problem,
                       std::vector<uint32_t> within, std::vector<uint32_t> crosses) {
             return GroupInfo{
                 {}, size, rank, std::move(problem), std::move(within), std::move(crosses)};
           }),
           py::arg("size"), py::arg("rank"), py::arg("problem"), py::arg("within"),
           py::arg("crosses"));
}

void bind_across(py::module_& module) {
  using Pairs = std::vector<std::pair<NodeId, NodeId>>;
  py::class_<NativeRun::Across>(
      module, "Across", "What the graphs that call this one, or that it calls, say of its values.")
      .def(py::init([](std::vector<NodeId> own, std::vector<NodeId> writers,
                       std::vector<NodeId> known, Pairs written, Pairs shown) {
             return NativeRun::Across{std::move(own),
                                      std::move(writers),
                                      {std::move(known), std::move(written), std::move(shown)}};
           }),
           py::arg("own"), py::arg("writers"), py::arg("known"), py::arg("written"),
           py::arg("shown"));
}

void bind_results(py::module_& module) {
  module.attr("Assumption") = assumption().type();
  py::class_<NativeRun::Tokens>(module, "Tokens", "Tokens that the ranks of a group share, or not.")
      .def_readonly("tokens", &NativeRun::Tokens::tokens)
      .def_readonly("group", &NativeRun::Tokens::group)
      .def_readonly("shared", &NativeRun::Tokens::shared)
      .def_readonly("padded", &NativeRun::Tokens::padded);
  py::class_<NativeRun::Report>(module, "Report",
                                "What was done with an all_reduce, or why it stays.")
      .def(py::init<py::object, bool, std::string, std::string, std::string>(), py::arg("node"),
           py::arg("rewritten"), py::arg("rule"), py::arg("reason"), py::arg("nearest"))
      .def_readonly("node", &NativeRun::Report::node)
      .def_readonly("rewritten", &NativeRun::Report::rewritten)
      .def_readonly("rule", &NativeRun::Report::rule)
      .def_readonly("reason", &NativeRun::Report::reason)
      .def_readonly("nearest", &NativeRun::Report::nearest);
}

}  // namespace

void bind_native_run(py::module_& module) {
  bind_groups(module);
  bind_across(module);
  bind_results(module);
  py::class_<NativeRun>(module, "NativeRun", "One run of the pass over one graph, step by step.")
      .def(py::init<py::object, std::shared_ptr<Rules>, const std::vector<py::object>&>(),
           py::arg("graph"), py::arg("rules"), py::arg("listed") = std::vector<py::object>())
      .def("groups", &NativeRun::groups)
      .def("other_groups", &NativeRun::other_groups)
      .def("set_groups", &NativeRun::set_groups, py::arg("infos"))
      .def("match", &NativeRun::match, py::arg("patterns") = true, py::arg("rowwise") = false,
           py::arg("gather_bytes") = false, py::arg("trust_unknown") = true,
           py::arg("replicated") = std::vector<NodeId>(),
           py::arg("numbers") = std::vector<NodeId>(),
           py::arg("collective_cost") = Costs{}.collective,
           py::arg("local_outputs") = std::vector<size_t>(),
           py::arg_v("across", NativeRun::Across{}, "..."))
      .def("is_own", &NativeRun::is_own, py::arg("place"))
      .def("is_shown_by_readers", &NativeRun::is_shown_by_readers, py::arg("place"))
      .def("is_written", &NativeRun::is_written, py::arg("place"))
      .def("is_written_own", &NativeRun::is_written_own, py::arg("place"))
      .def("plan", &NativeRun::plan, py::arg("decide"))
      .def("classes", &NativeRun::classes)
      .def("value_specs", &NativeRun::value_specs)
      .def("commit", &NativeRun::commit, py::arg("created"), py::arg("resized"),
           py::arg("described"))
      .def("calls", &NativeRun::calls)
      .def("reports", &NativeRun::reports)
      .def("assumptions", &NativeRun::assumptions)
      .def("totals", &NativeRun::totals)
      .def("planned_sites", &NativeRun::planned_sites)
      .def("plan_text", &NativeRun::plan_text)
      .def("__len__", &NativeRun::size);
}

}  // namespace spfast
