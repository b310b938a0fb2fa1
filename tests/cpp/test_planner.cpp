// What becomes of hand-built graphs: the plan, line by line.
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
