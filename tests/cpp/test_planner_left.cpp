// Sites that stay, each for its reason, and what is asked before that is known.
#include <algorithm>
#include <set>

#include "harness.h"
#include "plan_check.h"
#include "plans.h"

namespace spfast::testing {
namespace {

void expect_stays(const Planned& planned, const char* reason) {
  EXPECT_EQ(planned.rewritten(), 0U);
  EXPECT_EQ(planned.reason(0), reason);
  EXPECT_EQ(planned.text(), "");
}

NodeTable one_site(const Shape& shape = kShape) {
  GraphBuilder b;
  b.output({site(b, b.placeholder("x", shape), b.placeholder("w", {512}), shape)});
  return b.finish();
}

TEST(planner_leaves_what_does_not_divide) {
  expect_stays(plan_of(one_site({4095, 512})), "4095 tokens are not divisible by tp_size 4");
  expect_stays(plan_of(one_site({0, 512})), "0 tokens are not divisible by tp_size 4");
  EXPECT_EQ(plan_of(one_site({4095, 512}), {5, 0}).rewritten(), 1U);
}

TEST(planner_pads_what_does_not_divide) {
  const Planned planned = plan_with(one_site({9, 512}), all_rules(), {.decide = padding});
  EXPECT_EQ(planned.rewritten(), 1U);
  EXPECT_EQ(check_plan(planned.table, planned.plan), "");
  const std::string text = planned.text();
  EXPECT(text.find("aten.constant_pad_nd.default(%x, [0, 0, 0, 3]) padded") != std::string::npos);
  EXPECT(text.find("aten.slice.Tensor(%new_2, 0, 0, 9) cut") != std::string::npos);
  expect_stays(plan_with(one_site({0, 512}), all_rules(), {.decide = padding}),
               "0 tokens are not divisible by tp_size 4");
}

TEST(planner_reckons_symbolic_padding_once) {
  GraphBuilder b;
  const Shape shape{"s0", 512};
  const Node w = b.placeholder("w", {512});
  const Node x = b.placeholder("x", shape);
  const Node residual = b.placeholder("r", shape);
  const Node matrix = b.placeholder("m", {512, 512});
  const Node product = b.call("aten.mm.default", {site(b, x, w, shape), matrix}, shape);
  const Node reduced = b.call(kIrReduce, {product, "tp"}, shape);
  const Node pair = b.call(kIrAddNorm, {reduced, residual, w, 1e-5});
  b.set_parts(pair, {shape, shape});
  b.output({b.call("_operator.getitem", {pair, 0}, shape)});
  const Planned planned = plan_with(b.finish(), all_rules(), {.decide = padding});
  EXPECT_EQ(planned.rewritten(), 2U);
  EXPECT_EQ(check_plan(planned.table, planned.plan), "");
  EXPECT_EQ(planned.created("aten.constant_pad_nd.default"), 3U);
  EXPECT_EQ(planned.created("aten.sym_size.int"), 1U);
  EXPECT_EQ(planned.created("_operator.floordiv"), 1U);
}

TEST(planner_leaves_a_group_with_a_problem) {
  const char* problem = "nobody knows the group 'tp'";
  expect_stays(plan_with(one_site(), all_rules(), {.group_problem = problem}), problem);
}

TEST(planner_leaves_a_refused_class) {
  NodeTable table = one_site({"s0", 512});
  const Dim tokens = table.meta(table.args(table.size() - 2)[0].payload).tokens;
  expect_stays(plan_with(std::move(table), all_rules(),
                         {.decide = judging({{tokens, 0, {"s0 may be odd"}}})}),
               "s0 may be odd");
}

// What nobody in the site reads may be written to in between: another rank may not have that write.
TEST(planner_looks_past_a_write_to_other_memory) {
  for (const bool between : {true, false}) {
    GraphBuilder b;
    const Node x = b.placeholder("x", kShape);
    const Node w = b.placeholder("w", {512});
    const Node other = b.placeholder("other", kShape);
    const Node r = b.call(kIrReduce, {x, "tp"}, kShape);
    if (between) b.call("aten.copy_.default", {other, x});
    const Node n = b.call(kIrNorm, {r, w, 1e-5}, kShape);
    if (!between) b.call("aten.copy_.default", {other, x});
    b.output({n});
    EXPECT_EQ(plan_of(b.finish()).rewritten(), 1U);
  }
}

TEST(planner_leaves_a_value_that_is_written_to) {
  GraphBuilder b;
  const Node x = b.placeholder("x", kShape);
  const Node n = site(b, x, b.placeholder("w", {512}));
  const Node alias = b.call("aten.alias.default", {n}, kShape);
  b.call("aten.copy_.default", {alias, x});
  b.output({n});
  expect_stays(plan_of(b.finish()), "%5 = aten.copy_.default writes in place to %normed");
}

TEST(planner_leaves_a_residual_of_other_rows) {
  GraphBuilder b;
  const Node w = b.placeholder("w", {512});
  const Node residual = b.placeholder("res", {2048, 512});
  const Node s = reduce(b, b.placeholder("x", kShape), kShape);
  b.output({norm(b, b.call("aten.add.Tensor", {residual, s}, kShape), w, kShape)});
  expect_stays(plan_of(b.finish()),
               "residual %res has shape [2048, 512], %3 has shape [4096, 512]");
}

// [4, 4] viewed as [1, 16] has as many rows as the stream before the view and one after it.
TEST(planner_leaves_a_residual_that_a_view_mixes) {
  for (const bool alias : {false, true}) {
    GraphBuilder b;
    const Node w = b.placeholder("w", {16});
    const Node square = b.placeholder("res", {4, 4});
    const Node named = alias ? b.call("aten.alias.default", {square}, {4, 4}) : square;
    const Node row = b.call("aten.view.default", {named, list({1, 16})}, {1, 16});
    b.name(row, "row");
    const Node s = reduce(b, b.placeholder("x", {4, 16}), {4, 16});
    b.output({norm(b, b.call("aten.add.Tensor", {row, s}, {4, 16}), w, {4, 16})});
    expect_stays(plan_of(b.finish()),
                 "%row = aten.view.default mixes tokens and features of %res [4, 4]");
  }
}

TEST(planner_leaves_an_operand_with_rows_of_its_own) {
  GraphBuilder b;
  const Node x = b.placeholder("x", kShape);
  b.output({site(b, x, b.placeholder("w", {4096, 512}))});
  expect_stays(plan_of(b.finish()),
               "operand %w has shape [4096, 512] and is not the same for every token");
}

TEST(planner_leaves_a_tuple_that_is_read_whole) {
  GraphBuilder b;
  const Node x = b.placeholder("x", kShape);
  const Node r = b.call(kIrReduce, {x, "tp"}, kShape);
  const Node pair =
      b.call(kIrAddNorm, {r, b.placeholder("res", kShape), b.placeholder("w", {512}), 1.0});
  b.output({b.call("_operator.getitem", {pair, 0}, kShape), pair});
  expect_stays(plan_of(b.finish()), "%output = output reads the tuple %4 whole");
}

TEST(planner_asks_for_what_it_does_not_know) {
  GraphBuilder b;
  const Node w = b.placeholder("w");
  const Node x = b.placeholder("x");
  b.output({site(b, x, w)});
  const Planned planned = plan_of(b.finish());
  const std::set<NodeId> missing(planned.missing.begin(), planned.missing.end());
  EXPECT((missing == std::set<NodeId>{w.id, x.id}));
}

TEST(planner_leaves_what_nobody_knows) {
  GraphBuilder b;
  const Node w = b.placeholder("w");
  b.set_missing(w);
  b.output({site(b, b.placeholder("x"), w)});
  expect_stays(plan_of(b.finish()), "the size of %w is not known: it has no meta[\"val\"]");
}

// Nobody can make the shard of a tuple that has no meta: the site stays, and the plan is made anew.
TEST(planner_leaves_a_site_whose_values_cannot_be_made) {
  for (const bool known : {true, false}) {
    GraphBuilder b;
    const Node w = b.placeholder("w", {512});
    const Node r = b.call(kIrReduce, {b.placeholder("x", kShape), "tp"}, kShape);
    const Node n = b.call(kIrNorm, {r, w, 1e-5}, kShape);
    const Node m = b.call("aten.mm.default", {n, b.placeholder("m", {512, 512})}, kShape);
    const Node s = b.call(kIrReduce, {m, "tp"}, kShape);
    const Node pair = b.call(kIrAddNorm, {s, r, w, 1e-5});
    b.name(pair, "pair");
    known ? b.set_parts(pair, {kShape, kShape}) : b.set_missing(pair);
    b.output({b.call("_operator.getitem", {pair, 0}, kShape)});
    const Planned planned = plan_of(b.finish());
    EXPECT_EQ(planned.rewritten(), known ? 2U : 1U);
    EXPECT_EQ(planned.reports[1].rewritten, known);
    EXPECT_EQ(planned.reports[1].reason,
              known ? "" : "the size of %pair is not known: it has no meta[\"val\"]");
    EXPECT_EQ(check_plan(planned.table, planned.plan), "");
  }
}

// A norm whose size nobody knows can be gathered but not brought back to three dims.
TEST(planner_leaves_a_site_that_it_cannot_bring_back) {
  for (const bool known : {true, false}) {
    GraphBuilder b;
    const Shape shape{2, 2048, 512};
    const Node reduced = b.call(kIrReduce, {b.placeholder("x", shape), "tp"}, shape);
    const Node n = b.call(kIrNorm, {reduced, b.placeholder("w", {512}), 1e-5});
    b.name(n, "normed");
    known ? b.set_shape(n, shape) : b.set_missing(n);
    b.output({n});
    const Planned planned = plan_of(b.finish());
    EXPECT_EQ(planned.rewritten(), known ? 1U : 0U);
    EXPECT_EQ(planned.reason(0),
              known ? "" : "the size of %normed is not known: it has no meta[\"val\"]");
    EXPECT_EQ(planned.text().empty(), !known);
    EXPECT_EQ(check_plan(planned.table, planned.plan), "");
  }
}

// What an all_reduce reads of an earlier site's value, under every name: the gathered value, and
// never the shard; a copy that was written to stays what it is.
TEST(planner_leaves_what_constants_make_that_is_reduced_again) {
  // Were the gain the same on every rank, so would be what the second all_reduce sums.
  for (const bool summed : {false, true}) {
    GraphBuilder b;
    const Node w = b.call("aten.full.default", {list({512}), 1.5}, {512});
    const Node x = site(b, b.placeholder("x", kShape), w);
    b.output({summed ? b.call(kIrReduce, {x, "tp"}, kShape) : x});
    const Planned planned = plan_of(b.finish());
    EXPECT_EQ(planned.rewritten(), summed ? 0U : 1U);
    if (!summed) continue;
    EXPECT_EQ(planned.reason(0),
              "%0 is this rank's own, as %4 = vllm.all_reduce.default over all ranks "
              "shows, and would be read beside shards");
  }
}

TEST(planner_reduces_a_value_of_an_earlier_site) {
  enum class Name { kItself, kView, kWideView, kWrittenCopy };
  for (const Shape& shape : {Shape{4096, 512}, Shape{4, 1024, 512}}) {
    for (const Name kind : {Name::kItself, Name::kView, Name::kWideView, Name::kWrittenCopy}) {
      GraphBuilder b;
      // Did nobody vouch for it, the second all_reduce would show that each rank has its own.
      const Node w = b.placeholder("w", {512});
      const Node other = b.placeholder("other", shape);
      Node x = site(b, b.placeholder("x", shape), w, shape);
      Shape next = shape;
      if (kind == Name::kView) {
        next = kShape;
        x = b.call("aten.view.default", {x, list({4096, 512})}, next);
      } else if (kind == Name::kWideView) {
        next = {8192, 256};
        x = b.call("aten.view.default", {x, list({8192, 256})}, next);
      } else if (kind == Name::kWrittenCopy) {
        x = b.call("aten.clone.default", {x}, next);
        b.call("aten.copy_.default", {x, other});
      }
      const Node second = b.call(kIrReduce, {x, "tp"}, next);
      b.output({b.call(kIrNorm, {second, b.placeholder("v", {next.back()}), 1e-5}, next)});
      const Planned planned =
          plan_with(b.finish(), all_rules(), {.options = {.trust = {.replicated = {w.id}}}});
      EXPECT_EQ(planned.rewritten(), 2U);
      EXPECT_EQ(check_plan(planned.table, planned.plan), "");
      const auto scatters = std::count_if(
          planned.plan.created.begin(), planned.plan.created.end(), [&](const Created& made) {
            const bool reads = !made.args.empty() && made.args[0].node == x.id;
            return reads && kind != Name::kItself;
          });
      EXPECT_EQ(scatters, kind == Name::kView || kind == Name::kItself ? 0 : 1);
    }
  }
}

}  // namespace
}  // namespace spfast::testing
