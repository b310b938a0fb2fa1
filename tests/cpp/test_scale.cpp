// Graphs far larger or stranger than a model. Depth must cost no stack, and size no more than its
// share of work: steps are counted, so that the tests say the same on every machine.
#include <string>

#include "base/work.h"
#include "harness.h"
#include "plan_check.h"
#include "plans.h"
#include "table/file_format.h"

namespace spfast::testing {
namespace {

const Shape kScaleShape{64, 16};

template <typename Make>
uint64_t work_of(int size, const Make& make) {
  NodeTable table = make(size);
  const Rules& rules = all_rules();
  const uint64_t before = work_done;
  const Planned planned = plan_with(std::move(table), rules, {});
  const uint64_t work = work_done - before;
  EXPECT(planned.missing.empty());
  EXPECT(!planned.sites.sites.empty());
  return work;
}

// Ten times the size may take ten times the work, and a tenth more.
template <typename Make>
void expect_linear(const Make& make, int size) {
  const uint64_t small = work_of(size / 10, make);
  const uint64_t large = work_of(size, make);
  EXPECT(small > 0);
  EXPECT(large <= 11 * small + 1000);
}

Node ir_site(GraphBuilder& b, Node x, Node w, const Shape& shape, const char* group = "tp") {
  return b.call(kIrNorm, {b.call(kIrReduce, {x, group}, shape), w, 1e-5}, shape);
}

TEST(scale_a_stack_of_blocks) {
  expect_linear([](int blocks) { return functional_stack(blocks, kScaleShape); }, 5000);
}

TEST(scale_a_long_chain_of_names) {
  expect_linear(
      [](int length) {
        GraphBuilder b;
        const Node w = b.placeholder("w", {16});
        Node x = b.call(kIrReduce, {b.placeholder("x", kScaleShape), "tp"}, kScaleShape);
        for (int i = 0; i < length; ++i) x = b.call("aten.alias.default", {x}, kScaleShape);
        b.output({b.call(kIrNorm, {x, w, 1e-5}, kScaleShape)});
        return b.finish();
      },
      100000);
}

// copy(a, b) reads two names of one value: each name must be visited once, not once a way to it.
TEST(scale_copies_of_copies) {
  expect_linear(
      [](int length) {
        GraphBuilder b;
        const Node w = b.placeholder("w", {16});
        Node before = b.call(kIrReduce, {b.placeholder("x", kScaleShape), "tp"}, kScaleShape);
        Node x = b.call("aten.clone.default", {before}, kScaleShape);
        for (int i = 0; i < length; ++i) {
          const Node next = b.call("aten.copy.default", {before, x}, kScaleShape);
          before = x;
          x = next;
        }
        b.output({b.call(kIrNorm, {x, w, 1e-5}, kScaleShape)});
        return b.finish();
      },
      1000);
}

// Every site reads the same residual through the same long chain of names, and something somewhere
// is written to.
TEST(scale_many_sites_behind_one_chain) {
  expect_linear(
      [](int size) {
        GraphBuilder b;
        const Node w = b.placeholder("w", {16});
        Node residual = b.placeholder("residual", kScaleShape);
        for (int i = 0; i < size; ++i)
          residual = b.call("aten.alias.default", {residual}, kScaleShape);
        Node x = b.placeholder("x", kScaleShape);
        std::vector<Arg> outputs;
        for (int i = 0; i < size; ++i) {
          const Node sum =
              b.call("aten.add.Tensor", {residual, reduce(b, x, kScaleShape)}, kScaleShape);
          outputs.emplace_back(norm(b, sum, w, kScaleShape));
        }
        b.call("aten.copy_.default", {b.placeholder("other", kScaleShape), x});
        b.output(outputs);
        return b.finish();
      },
      2000);
}

TEST(scale_many_users) {
  expect_linear(
      [](int users) {
        GraphBuilder b;
        const Node w = b.placeholder("w", {16});
        const Node x = reduce(b, b.placeholder("x", kScaleShape), kScaleShape);
        norm(b, x, w, kScaleShape);
        for (int i = 0; i < users; ++i) b.call("aten.relu.default", {x}, kScaleShape);
        return b.finish();
      },
      100000);
}

// Every user goes a step further than it should.
TEST(scale_many_users_that_begin_like_a_norm) {
  expect_linear(
      [](int users) {
        GraphBuilder b;
        const Node w = b.placeholder("w", {16});
        const Node x = reduce(b, b.placeholder("x", kScaleShape), kScaleShape);
        for (int i = 0; i < users; ++i) {
          const Node cast = b.call(kCast, {x, dtype("torch.float32")}, kScaleShape);
          b.call("aten.pow.Tensor_Scalar", {cast, i + 3}, kScaleShape);
        }
        norm(b, x, w, kScaleShape);
        return b.finish();
      },
      20000);
}

// The residual of every site is one value that everybody reads.
TEST(scale_one_residual_of_many_sites) {
  expect_linear(
      [](int sites) {
        GraphBuilder b;
        const Node w = b.placeholder("w", {16});
        const Node residual = b.placeholder("residual", kScaleShape);
        Node x = b.placeholder("x", kScaleShape);
        for (int i = 0; i < sites; ++i) {
          x = norm(b, b.call("aten.add.Tensor", {residual, reduce(b, x, kScaleShape)}, kScaleShape),
                   w, kScaleShape);
        }
        b.output({x});
        return b.finish();
      },
      10000);
}

TEST(scale_many_outputs) {
  expect_linear(
      [](int sites) {
        GraphBuilder b;
        const Node w = b.placeholder("w", {16});
        const Node x = b.placeholder("x", kScaleShape);
        std::vector<Arg> outputs;
        for (int i = 0; i < sites; ++i) outputs.emplace_back(ir_site(b, x, w, kScaleShape));
        b.output(outputs);
        return b.finish();
      },
      10000);
}

TEST(scale_many_groups) {
  expect_linear(
      [](int groups) {
        GraphBuilder b;
        const Node w = b.placeholder("w", {16});
        Node x = b.placeholder("x", kScaleShape);
        for (int i = 0; i < groups; ++i)
          x = ir_site(b, x, w, kScaleShape, std::to_string(i).c_str());
        b.output({x});
        return b.finish();
      },
      10000);
}

TEST(scale_many_widths_and_numbers_of_tokens) {
  const auto make = [](int sites) {
    GraphBuilder b;
    std::vector<Arg> outputs;
    for (int i = 1; i <= sites; ++i) {
      const Shape shape{4 * i, i};
      outputs.emplace_back(ir_site(b, b.placeholder("x", shape), b.placeholder("w", {i}), shape));
    }
    b.output(outputs);
    return b.finish();
  };
  expect_linear(make, 10000);
  const Planned planned = plan_of(make(1000));
  EXPECT_EQ(planned.rewritten(), 1000U);
  EXPECT_EQ(planned.plan.classes.size(), 1000U);
}

TEST(scale_many_patterns) {
  std::vector<Pattern> patterns{ir_first()};
  for (int i = 0; i < 1000; ++i) {
    Pattern p = ir_first();
    p.rule = "rule " + std::to_string(i);
    p.operations[1].forms[0].target = intern_target("test.many" + std::to_string(i));
    patterns.push_back(p);
  }
  const auto work = [](const std::vector<Pattern>& all) {
    GraphBuilder b;
    const Node w = b.placeholder("w", {16});
    Node x = b.placeholder("x", kScaleShape);
    for (int i = 0; i < 100; ++i) x = ir_site(b, x, w, kScaleShape);
    const NodeTable table = b.finish();
    const ProgramSet programs = programs_of(all);
    const uint64_t before = work_done;
    EXPECT_EQ(match(table, programs).matches.size(), 100U);
    return work_done - before;
  };
  EXPECT_EQ(work(patterns), work({ir_first()}));  // a candidate meets only what could take it
}

TEST(scale_deep_arguments) {
  GraphBuilder b;
  const Node x = b.placeholder("x", kScaleShape);
  const Node odd = b.call("test.deep.default", {nested(x, kDeep)}, kScaleShape);
  const Node n = ir_site(b, odd, b.placeholder("w", {16}), kScaleShape);
  b.output({n});
  const Planned planned = plan_of(b.finish());
  EXPECT_EQ(planned.rewritten(), 1U);
  EXPECT_EQ(planned.table.users(x.id).size(), 1U);
  EXPECT(planned.table.format_value(planned.table.args(odd.id)[0]).size() < 400);
  const auto bytes = write_table(planned.table);
  EXPECT(write_table(read_table(bytes)) == bytes);
}

TEST(scale_a_chain_of_a_hundred_thousand_nodes) {
  GraphBuilder b;
  Node x = b.placeholder("x", kScaleShape);
  for (int i = 0; i < 100000; ++i) x = b.call("aten.relu.default", {x}, kScaleShape);
  b.output({ir_site(b, x, b.placeholder("w", {16}), kScaleShape)});
  const Planned planned = plan_of(b.finish());
  EXPECT_EQ(planned.rewritten(), 1U);
  EXPECT_EQ(check_plan(planned.table, planned.plan), "");
  EXPECT_EQ(read_table(write_table(planned.table)).size(), planned.table.size());
}

}  // namespace
}  // namespace spfast::testing
