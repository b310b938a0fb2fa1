// The row-wise recogniser on hand-built graphs: where its regions are cut, and what cannot be cut.
#include "harness.h"
#include "plan_check.h"
#include "plans.h"
#include "rewrite/max_flow.h"

namespace spfast::testing {
namespace {

constexpr int64_t kUncut = MaxFlow::kUncut;

TEST(max_flow_cuts_where_it_costs_least) {
  MaxFlow flow(4);
  flow.add_edge(0, 1, 5);
  flow.add_edge(1, 2, 3);
  flow.add_edge(2, 3, kUncut);
  EXPECT(flow.run(0, 3));
  const std::vector<bool> side = flow.source_side(3);
  EXPECT_EQ(side, (std::vector<bool>{true, true, false, false}));
}

// However many ways are never cut: they are not added up beyond what a number holds.
TEST(max_flow_says_that_there_is_no_cut) {
  MaxFlow flow(12);
  flow.add_edge(0, 11, 1);
  for (uint32_t way = 1; way < 11; ++way) {
    flow.add_edge(0, way, kUncut);
    flow.add_edge(way, 11, kUncut);
  }
  EXPECT(!flow.run(0, 11));
}

// Of small graphs every cut can be tried: the cheapest, and of these the one with most on the
// source's side, which all others of that cost lie within.
TEST(max_flow_finds_the_largest_of_the_cheapest_cuts) {
  uint32_t random = 7;
  const auto draw = [&](uint32_t below) {
    random = random * 1664525U + 1013904223U;
    return (random >> 8U) % below;
  };
  for (int graph = 0; graph < 500; ++graph) {
    constexpr uint32_t kNodes = 8;
    struct Edge {
      uint32_t from, to;
      int64_t capacity;
    };
    std::vector<Edge> edges;
    MaxFlow flow(kNodes);
    for (uint32_t i = 0; i < 6 + draw(16); ++i) {
      const bool uncut = draw(8) == 0;
      edges.push_back({draw(kNodes), draw(kNodes), uncut ? kUncut : int64_t{draw(9)}});
      flow.add_edge(edges.back().from, edges.back().to, edges.back().capacity);
    }
    int64_t cheapest = kUncut;
    uint32_t largest = 0;
    for (uint32_t side = 1; side < 1U << (kNodes - 1); side += 2) {  // the source, not the sink
      int64_t cost = 0;
      for (const Edge& edge : edges) {
        const bool cut = (side >> edge.from & 1U) != 0 && (side >> edge.to & 1U) == 0;
        if (cut) cost = std::min(kUncut, cost + edge.capacity);
      }
      if (cost < cheapest) largest = 0;
      cheapest = std::min(cheapest, cost);
      if (cost == cheapest) largest |= side;
    }
    EXPECT_EQ(flow.run(0, kNodes - 1), cheapest < kUncut);
    if (cheapest == kUncut) continue;
    const std::vector<bool> found = flow.source_side(kNodes - 1);
    for (uint32_t i = 0; i < kNodes; ++i) EXPECT_EQ(bool{found[i]}, (largest >> i & 1U) != 0);
  }
}

// Matched sites whose norms yield tuples, and an all_reduce that no pattern matches.
NodeTable stack_with_a_row_wise_end(int sites, const Shape& shape) {
  GraphBuilder b;
  const Node weight = b.placeholder("weight", {shape.back()});
  const Node matrix = b.placeholder("matrix", {shape.back(), shape.back()});
  Node x = b.placeholder("x", shape);
  Node residual = b.placeholder("residual", shape);
  for (int i = 0; i < sites; ++i) {
    const Node product = b.call("aten.mm.default", {x, matrix}, shape);
    const Node reduced = b.call(kIrReduce, {product, "tp"}, shape);
    const Node pair = b.call(kIrAddNorm, {reduced, residual, weight, 1e-5});
    b.set_parts(pair, {shape, shape});
    x = b.call("_operator.getitem", {pair, 0}, shape);
    residual = b.call("_operator.getitem", {pair, 1}, shape);
  }
  const Node last = b.call(kIrReduce, {b.call("aten.mm.default", {x, matrix}, shape), "tp"}, shape);
  const Node sum = b.call("aten.add.Tensor", {last, residual}, shape);
  b.output({b.call("aten.relu.default", {sum}, shape)});
  return b.finish();
}

TEST(rows_are_cut_beside_many_tuples_of_matched_sites) {
  const Planned planned = plan_of_both(stack_with_a_row_wise_end(9, {4096, 512}));
  EXPECT_EQ(check_plan(planned.table, planned.plan), "");
  // Nine sites, the last all_reduce, and what is row-wise behind it.
  EXPECT_EQ(planned.rewritten(), 11U);
  EXPECT_EQ(planned.created("vllm.reduce_scatter.default"), 10U);
  EXPECT_EQ(planned.created("vllm.all_gather.default"), 10U);
}

// A residual whose names the row-wise view knows, beyond those that patterns look through.
TEST(rows_lead_to_a_residual_by_names_of_their_own) {
  GraphBuilder b;
  const Shape shape{8, 4};
  const Node weight = b.placeholder("weight", {4});
  const Node x = b.placeholder("x", shape);
  const Node first = b.call("aten.relu.default", {b.call(kIrReduce, {x, "tp"}, shape)}, shape);
  const Node wide = b.call("aten.unsqueeze.default", {first, 0}, {1, 8, 4});
  const Node narrow = b.call("aten.squeeze.dim", {wide, 0}, shape);
  const Node second = b.call(kIrReduce, {b.call("aten.mm.default", {x, x}, shape), "tp"}, shape);
  const Node pair = b.call(kIrAddNorm, {second, narrow, weight, 1e-5});
  b.set_parts(pair, {shape, shape});
  b.output({b.call("_operator.getitem", {pair, 0}, shape)});
  const Planned planned = plan_of_both(b.finish());
  EXPECT_EQ(check_plan(planned.table, planned.plan), "");
  EXPECT_EQ(planned.created("vllm.reduce_scatter.default"), 2U);
  EXPECT_EQ(planned.created("vllm.all_gather.default"), 1U);
}

// A rank's number of rows is read from a shard: before the first, values stay full, a tuple whole.
TEST(rows_of_symbolic_tokens_before_the_first_shard) {
  GraphBuilder b;
  const Shape shape{"s0", 4};
  const Node x = b.placeholder("x", shape);
  const Node first = b.call(kIrReduce, {x, "tp"}, shape);
  const Node wide = b.call("aten.cat.default", {list({first, first, first}), -1}, {"s0", 12});
  const Node mean = b.call("aten.mean.dim", {wide, list({-1}), true}, {"s0", 1});
  const Node most = b.call("aten.topk.default", {wide, 4, -1});
  b.set_parts(most, {shape, shape});
  const Node second = b.call(kIrReduce, {b.call("aten.sin.default", {x}, shape), "tp"}, shape);
  const Node part = b.call("_operator.getitem", {most, 0}, shape);
  const Node sum = b.call("aten.add.Tensor", {mean, second}, shape);
  const Node all = b.call("aten.add.Tensor", {sum, part}, shape);
  b.output({wide, b.call("aten.relu.default", {all}, shape)});
  const Planned planned = plan_of_both(b.finish());
  EXPECT_EQ(check_plan(planned.table, planned.plan), "");
  EXPECT_EQ(planned.created("vllm.reduce_scatter.default"), 1U);
  EXPECT_EQ(planned.created("vllm.all_gather.default"), 1U);
}

// However wide a value is, it costs less than what is never cut.
TEST(rows_of_an_absurd_width) {
  const Planned planned = plan_of_both(stack_with_a_row_wise_end(3, {8, int64_t{1} << 59}));
  EXPECT_EQ(check_plan(planned.table, planned.plan), "");
  EXPECT_EQ(planned.rewritten(), 5U);
}

// A tuple has parts; of a tensor getitem takes a row, for which all are needed.
TEST(rows_of_a_part_and_of_a_row) {
  GraphBuilder b;
  const Node x = b.placeholder("x", {8, 4});
  const Node reduced = b.call(kIrReduce, {x, "tp"}, {8, 4});
  const Node positive = b.call("aten.relu.default", {reduced}, {8, 4});
  const Node both = b.call("aten.topk.default", {positive, 2, -1});
  b.set_parts(both, {{8, 2}, {8, 2}});
  const Node part = b.call("_operator.getitem", {both, 0}, {8, 2});
  const Node row = b.call("_operator.getitem", {positive, 0}, {4});
  const Node odd = b.call("_operator.getitem", {}, {4}, {{"x", positive}});
  b.output({part, row, odd});
  const Planned planned = plan_of_both(b.finish());
  EXPECT_EQ(check_plan(planned.table, planned.plan), "");
  EXPECT_EQ(planned.sites.layout.is_row(part.id), true);
  EXPECT_EQ(planned.sites.layout.is_row(row.id), false);
  EXPECT_EQ(planned.sites.layout.is_row(odd.id), false);
}

}  // namespace
}  // namespace spfast::testing
