// What becomes of hand-built graphs: the plan, line by line, and the reasons of sites that stay.
#include <set>

#include "harness.h"
#include "plan_check.h"
#include "plans.h"

namespace spfast::testing {
namespace {

void expect_plan(const Planned& planned, size_t sites, const char* text) {
  EXPECT_EQ(planned.rewritten(), sites);
  EXPECT_EQ(planned.sites.sites.size(), sites);
  EXPECT(planned.missing.empty());
  EXPECT_EQ(planned.text(), text);
  EXPECT_EQ(check_plan(planned.table, planned.plan), "");
}

// One fused site; the norm and its input have names.
Node site(GraphBuilder& b, Node x, Node weight, const Shape& shape = kShape) {
  const Node reduced = b.call(kIrReduce, {x, "tp"}, shape);
  const Node normed = b.call(kIrNorm, {reduced, weight, 1e-5}, shape);
  b.name(reduced, "reduced");
  b.name(normed, "normed");
  return normed;
}

TEST(planner_one_gather_for_all_readers) {
  GraphBuilder b;
  const Node x = b.placeholder("x", kShape);
  const Node n = site(b, x, b.placeholder("w", {512}));
  const Node one = b.call("aten.mm.default", {n, x}, kShape);
  const Node two = b.call("aten.mm.default", {x, n}, kShape);
  b.output({one, two, n});
  expect_plan(plan_of(b.finish()), 1,
              "create %new_0 = vllm.reduce_scatter.default(%x, 0, 4, 'tp') local like %reduced "
              "before %reduced\n"
              "rewire %normed: %reduced -> %new_0\n"
              "resize %normed local like %normed\n"
              "create %new_1 = vllm.all_gather.default(%normed, 0, 4, 'tp') gathered like %normed "
              "before %4\n"
              "rewire %4: %normed -> %new_1\n"
              "rewire %5: %normed -> %new_1\n"
              "rewire %output: %normed -> %new_1\n"
              "erase %reduced\n");
}

TEST(planner_keeps_a_residual_that_is_a_shard) {
  expect_plan(
      plan_of(functional_stack(2, kShape)), 2,
      "create %new_0 = _c10d_functional.reduce_scatter_tensor.default(%3, 'sum', 4, '0') local "
      "like %4 before %4\n"
      "create %new_1 = _c10d_functional.wait_tensor.default(%new_0) local like %4 before %5\n"
      "rewire %6: %5 -> %new_1\n"
      "resize %6 local like %6\n"
      "resize %7 local like %7\n"
      "resize %8 local like %8\n"
      "resize %9 local like %9\n"
      "resize %10 local like %10\n"
      "resize %11 local like %11\n"
      "resize %12 local like %12\n"
      "resize %13 local like %13\n"
      "create %new_2 = _c10d_functional.all_gather_into_tensor.default(%13, 4, '0') gathered like "
      "%13 before %14\n"
      "create %new_3 = _c10d_functional.wait_tensor.default(%new_2) gathered like %13 before %14\n"
      "rewire %14: %13 -> %new_3\n"
      "create %new_4 = _c10d_functional.reduce_scatter_tensor.default(%14, 'sum', 4, '0') local "
      "like %15 before %15\n"
      "create %new_5 = _c10d_functional.wait_tensor.default(%new_4) local like %15 before %16\n"
      "rewire %17: %5 -> %new_1\n"
      "rewire %17: %16 -> %new_5\n"
      "resize %17 local like %17\n"
      "resize %18 local like %18\n"
      "resize %19 local like %19\n"
      "resize %20 local like %20\n"
      "resize %21 local like %21\n"
      "resize %22 local like %22\n"
      "resize %23 local like %23\n"
      "resize %24 local like %24\n"
      "resize %25 local like %25\n"
      "create %new_6 = _c10d_functional.all_gather_into_tensor.default(%25, 4, '0') gathered like "
      "%25 before %output\n"
      "create %new_7 = _c10d_functional.wait_tensor.default(%new_6) gathered like %25 before "
      "%output\n"
      "rewire %output: %25 -> %new_7\n"
      "erase %16\n"
      "erase %15\n"
      "erase %5\n"
      "erase %4\n");
}

TEST(planner_cuts_a_full_residual_once) {
  GraphBuilder b;
  Node x = b.placeholder("x", kShape);
  const Node w = b.placeholder("w", {512});
  const Node residual = b.placeholder("res", kShape);
  const Node matrix = b.placeholder("matrix", {512, 512});
  for (int i = 0; i < 2; ++i) {
    const Node r = b.call(kIrReduce, {x, "tp"}, kShape);
    const Node pair = b.call(kIrAddNorm, {r, residual, w, 1e-5});
    b.set_parts(pair, {kShape, kShape});
    const Node n = b.call("_operator.getitem", {pair, 0}, kShape);
    b.call("_operator.getitem", {pair, 1}, kShape);
    x = b.call("aten.mm.default", {n, matrix}, kShape);
  }
  b.output({x});
  expect_plan(
      plan_of(b.finish()), 2,
      "create %new_0 = vllm.reduce_scatter.default(%x, 0, 4, 'tp') local like %4 before %4\n"
      "rewire %5: %4 -> %new_0\n"
      "create %new_1 = aten.slice.Tensor(%res, 0, 1024, 2048) own rows like %res before %5\n"
      "rewire %5: %res -> %new_1\n"
      "resize %5 local like %5\n"
      "resize %6 local like %6\n"
      "create %new_2 = vllm.all_gather.default(%6, 0, 4, 'tp') gathered like %6 before %8\n"
      "rewire %8: %6 -> %new_2\n"
      "resize %7 local like %7\n"
      "create %new_3 = vllm.reduce_scatter.default(%8, 0, 4, 'tp') local like %9 before %9\n"
      "rewire %10: %9 -> %new_3\n"
      "rewire %10: %res -> %new_1\n"
      "resize %10 local like %10\n"
      "resize %11 local like %11\n"
      "create %new_4 = vllm.all_gather.default(%11, 0, 4, 'tp') gathered like %11 before %13\n"
      "rewire %13: %11 -> %new_4\n"
      "resize %12 local like %12\n"
      "erase %9\n"
      "erase %4\n");
}

TEST(planner_shares_no_shard_between_groups) {
  GraphBuilder b;
  const Node x = b.placeholder("x", kShape);
  const Node w = b.placeholder("w", {512});
  const Node r = b.call(kIrReduce, {x, "a"}, kShape);
  const Node n = b.call(kIrNorm, {r, w, 1e-5}, kShape);
  const Node m = b.call("aten.mm.default", {n, x}, kShape);
  const Node s = b.call(kIrReduce, {m, "b"}, kShape);
  const Node pair = b.call(kIrAddNorm, {s, r, w, 1e-5});
  b.set_parts(pair, {kShape, kShape});
  b.output({b.call("_operator.getitem", {pair, 0}, kShape)});
  expect_plan(
      plan_of(b.finish()), 2,
      "create %new_0 = vllm.reduce_scatter.default(%x, 0, 4, 'a') local like %2 before %2\n"
      "create %new_1 = vllm.all_gather.default(%new_0, 0, 4, 'a') gathered like %2 before %6\n"
      "rewire %3: %2 -> %new_0\n"
      "resize %3 local like %3\n"
      "create %new_2 = vllm.all_gather.default(%3, 0, 4, 'a') gathered like %3 before %4\n"
      "rewire %4: %3 -> %new_2\n"
      "create %new_3 = vllm.reduce_scatter.default(%4, 0, 4, 'b') local like %5 before %5\n"
      "rewire %6: %5 -> %new_3\n"
      "create %new_4 = aten.slice.Tensor(%new_1, 0, 1024, 2048) own rows like %2 before %6\n"
      "rewire %6: %2 -> %new_4\n"
      "resize %6 local like %6\n"
      "resize %7 local like %7\n"
      "create %new_5 = vllm.all_gather.default(%7, 0, 4, 'b') gathered like %7 before %output\n"
      "rewire %output: %7 -> %new_5\n"
      "erase %5\n"
      "erase %2\n");
}

TEST(planner_of_a_symbolic_number_of_tokens) {
  const Shape shape{"s0", 512};
  GraphBuilder b;
  const Node w = b.placeholder("w", {512});
  const Node x = b.placeholder("x", shape);
  const Node residual = b.placeholder("res", shape);
  const Node s = reduce(b, x, shape);
  b.output({norm(b, b.call("aten.add.Tensor", {residual, s}, shape), w, shape)});
  expect_plan(
      plan_of(b.finish()), 1,
      "create %new_0 = _c10d_functional.reduce_scatter_tensor.default(%x, 'sum', 4, '0') local "
      "like %3 before %3\n"
      "create %new_1 = _c10d_functional.wait_tensor.default(%new_0) local like %3 before %4\n"
      "create %new_2 = aten.sym_size.int(%new_1, 0) local size before %5\n"
      "create %new_3 = _operator.mul(%new_2, 1) 1 * local size before %5\n"
      "create %new_4 = _operator.mul(%new_2, 2) 2 * local size before %5\n"
      "create %new_5 = aten.slice.Tensor(%res, 0, %new_3, %new_4) own rows like %res before %5\n"
      "rewire %5: %res -> %new_5\n"
      "rewire %5: %4 -> %new_1\n"
      "resize %5 local like %5\n"
      "resize %6 local like %6\n"
      "resize %7 local like %7\n"
      "resize %8 local like %8\n"
      "resize %9 local like %9\n"
      "resize %10 local like %10\n"
      "resize %11 local like %11\n"
      "resize %12 local like %12\n"
      "resize %13 local like %13\n"
      "create %new_6 = _c10d_functional.all_gather_into_tensor.default(%13, 4, '0') gathered like "
      "%13 before %output\n"
      "create %new_7 = _c10d_functional.wait_tensor.default(%new_6) gathered like %13 before "
      "%output\n"
      "rewire %output: %13 -> %new_7\n"
      "erase %4\n"
      "erase %3\n");
}

// The views vanish, the last dim loses its positive number, and size arithmetic that only a
// vanished view read dies with it.
TEST(planner_flattens_a_stream_of_three_dims) {
  const Shape shape{4, 1024, 512};
  GraphBuilder b;
  const Node w = b.placeholder("w", {512});
  const Node x = b.placeholder("x", kShape);
  const Node size = b.call("aten.sym_size.int", {x, 0}, kShape);
  const Node wide = b.call("aten.view.default", {x, list({4, 1024, 512})}, shape);
  const Node residual = b.placeholder("res", shape);
  const Node s = reduce(b, wide, shape);
  const Node sum = b.call("aten.add.Tensor", {residual, s}, shape);
  const Node n = norm(b, sum, w, shape, {list({2})});
  const Node flat = b.call("aten.view.default", {n, list({size, 512})}, kShape);
  b.output({b.call("aten.mm.default", {flat, w}, kShape), sum});
  expect_plan(
      plan_of(b.finish()), 1,
      "create %new_0 = _c10d_functional.reduce_scatter_tensor.default(%x, 'sum', 4, '0') local "
      "like %5 before %5\n"
      "create %new_1 = _c10d_functional.wait_tensor.default(%new_0) local like %5 before %6\n"
      "create %new_2 = aten.reshape.default(%res, [-1, 512]) flat like %res before %7\n"
      "create %new_3 = aten.slice.Tensor(%new_2, 0, 1024, 2048) own rows like %res before %7\n"
      "rewire %7: %res -> %new_3\n"
      "rewire %7: %6 -> %new_1\n"
      "resize %7 local like %7\n"
      "create %new_4 = _c10d_functional.all_gather_into_tensor.default(%7, 4, '0') gathered like "
      "%7 before %output\n"
      "create %new_5 = _c10d_functional.wait_tensor.default(%new_4) gathered like %7 before "
      "%output\n"
      "create %new_6 = aten.reshape.default(%new_5, [4, 1024, 512]) full like %7 before %output\n"
      "rewire %output: %7 -> %new_6\n"
      "resize %8 local like %8\n"
      "resize %9 local like %9\n"
      "resize %10 local like %10\n"
      "set %10: argument 1 -> -1\n"
      "resize %11 local like %11\n"
      "resize %12 local like %12\n"
      "resize %13 local like %13\n"
      "resize %14 local like %14\n"
      "resize %15 local like %15\n"
      "create %new_7 = _c10d_functional.all_gather_into_tensor.default(%15, 4, '0') gathered like "
      "%15 before %17\n"
      "create %new_8 = _c10d_functional.wait_tensor.default(%new_7) gathered like %15 before %17\n"
      "rewire %17: %16 -> %new_8\n"
      "erase %16\n"
      "erase %6\n"
      "erase %5\n"
      "erase %3\n"
      "erase %2\n");
}

// --- sites that stay
// ------------------------------------------------------------------------------

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
TEST(planner_reduces_a_value_of_an_earlier_site) {
  enum class Name { kItself, kView, kWideView, kWrittenCopy };
  for (const Shape& shape : {Shape{4096, 512}, Shape{4, 1024, 512}}) {
    for (const Name kind : {Name::kItself, Name::kView, Name::kWideView, Name::kWrittenCopy}) {
      GraphBuilder b;
      // Were it an input, its reaching the second all_reduce would show that each rank has its own.
      const Node w = b.call("aten.full.default", {list({512}), 1.5}, {512});
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
      const Planned planned = plan_of(b.finish());
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

// getitem of a tensor takes a row of it: that needs the whole.
TEST(planner_tells_a_row_from_a_part) {
  GraphBuilder b;
  const Node n = site(b, b.placeholder("x", kShape), b.placeholder("w", {512}));
  const Node row = b.call("_operator.getitem", {n, 0}, {512});
  b.output({row});
  const Planned planned = plan_of(b.finish());
  EXPECT_EQ(planned.rewritten(), 1U);
  EXPECT_EQ(check_plan(planned.table, planned.plan), "");
  EXPECT_EQ(planned.created("vllm.all_gather.default"), 1U);
}

TEST(planner_same_table_same_plan) {
  EXPECT_EQ(plan_of(functional_stack(7, kShape)).text(),
            plan_of(functional_stack(7, kShape)).text());
}

TEST(planner_plans_of_stacks_are_sound) {
  for (const Shape& shape :
       {Shape{4096, 512}, Shape{2, 2048, 512}, Shape{"s0", 512}, Shape{2, "s0", 512}}) {
    for (const int64_t rank : {0, 1, 3}) {
      const Planned planned = plan_of(functional_stack(5, shape), {4, rank});
      EXPECT_EQ(planned.rewritten(), 5U);
      EXPECT_EQ(check_plan(planned.table, planned.plan), "");
    }
  }
}

}  // namespace
}  // namespace spfast::testing
