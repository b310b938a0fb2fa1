// What one program accepts and refuses at one anchor, and what the failure recorder says.
#include <limits>
#include <tuple>

#include "base/work.h"
#include "graphs.h"
#include "harness.h"

namespace spfast::testing {
namespace {

struct Found {
  NodeTable table;
  MatchResult result;
  std::string rule;
  std::string failure;
};

Found run(GraphBuilder& b, const ProgramSet& programs = all_programs()) {
  Found found{b.finish(), {}, {}, {}};
  found.result = match(found.table, programs);
  found.rule = rule_of(found.result, programs, 0);
  found.failure = format_failure(found.table, programs, found.result.reports[0].failure);
  return found;
}

TEST(machine_takes_a_fused_norm) {
  GraphBuilder b;
  const Node x = b.placeholder("x", kShape);
  const Node w = b.placeholder("w", {512});
  const Node r = b.call(kIrReduce, {x, "tp"}, kShape);
  const Node n = b.call(kIrNorm, {r, w, 1e-5}, kShape);
  const Found found = run(b);
  EXPECT_EQ(found.rule, "first");
  const Match& m = found.result.matches[0];
  EXPECT(m.operations == (std::vector<NodeId>{r.id, n.id}));
  EXPECT(m.parameters[0] == (Argument{Tag::kNode, w.id}));
  EXPECT_EQ(found.table.as_float(m.parameters[1]), 1e-5);
}

TEST(machine_takes_every_spelling_of_a_decomposed_norm) {
  for (const bool swapped : {false, true}) {
    for (const bool fused_dim : {false, true}) {
      for (const char* add : {"aten.add.Scalar", "aten.add.Tensor"}) {
        GraphBuilder b;
        const Node w = b.placeholder("w", {512});
        const Node x = reduce(b, b.placeholder("x", kShape), kShape);
        norm(b, x, w, kShape, {fused_dim ? list({1}) : list({-1}), swapped, add, 1e-5});
        const Found found = run(b);
        EXPECT_EQ(found.rule, "first");
        EXPECT(found.result.matches[0].parameters[0] == (Argument{Tag::kNode, w.id}));
        EXPECT_EQ(found.table.as_float(found.result.matches[0].parameters[1]), 1e-5);
      }
    }
  }
}

TEST(machine_refuses_a_mean_over_another_dim) {
  GraphBuilder b;
  const Node w = b.placeholder("w", {512});
  const Node x = reduce(b, b.placeholder("x", kShape), kShape);
  norm(b, x, w, kShape, {list({0})});
  const Found found = run(b);
  EXPECT_EQ(found.rule, "-");
  EXPECT_EQ(found.failure,
            "first: at %6 = aten.mean.dim, operand 1: expected the last dim, found [0]");
}

TEST(machine_looks_through_noise) {
  GraphBuilder b;
  const Node w = b.placeholder("w", {512});
  const Node wide = b.placeholder("x", {4, 1024, 512});
  Node x = reduce(b, wide, {4, 1024, 512});
  x = b.call("aten.view.default", {x, list({4096, 512})}, kShape);
  x = b.call("aten.clone.default", {x}, kShape);
  x = b.call("aten.slice.Tensor", {x, 0, 0, std::numeric_limits<int64_t>::max()}, kShape);
  x = b.call("aten.copy.default", {b.placeholder("buffer", kShape), x}, kShape);
  norm(b, x, w, kShape);
  EXPECT_EQ(run(b).rule, "first");
}

TEST(machine_does_not_look_through_a_view_that_cuts_rows) {
  GraphBuilder b;
  const Node w = b.placeholder("w", {256});
  Node x = reduce(b, b.placeholder("x", kShape), kShape);
  x = b.call("aten.view.default", {x, list({8192, 256})}, {8192, 256});
  norm(b, x, w, {8192, 256});
  const Found found = run(b, programs_of({functional_first()}));
  EXPECT_EQ(found.rule, "-");
  EXPECT_EQ(found.failure,
            "first: expected prims.convert_element_type.default on %3 = "
            "_c10d_functional.wait_tensor.default, found %4 = aten.view.default");
}

TEST(machine_does_not_look_through_a_slice_of_a_part) {
  GraphBuilder b;
  const Node w = b.placeholder("w", {512});
  Node x = reduce(b, b.placeholder("x", kShape), kShape);
  x = b.call("aten.slice.Tensor", {x, 0, 0, 7}, {7, 512});
  norm(b, x, w, {7, 512});
  EXPECT_EQ(run(b).rule, "-");
}

TEST(machine_takes_the_copied_value_not_the_buffer) {
  GraphBuilder b;
  const Node w = b.placeholder("w", {512});
  const Node x = reduce(b, b.placeholder("x", kShape), kShape);
  const Node copy = b.call("aten.copy.default", {x, b.placeholder("other", kShape)}, kShape);
  norm(b, copy, w, kShape);
  EXPECT_EQ(run(b).rule, "-");
}

TEST(machine_takes_either_order_of_an_add) {
  for (const bool swapped : {false, true}) {
    GraphBuilder b;
    const Node w = b.placeholder("w", {512});
    const Node residual = b.placeholder("residual", kShape);
    const Node x = reduce(b, b.placeholder("x", kShape), kShape);
    const Node sum =
        b.call("aten.add.Tensor", {swapped ? x : residual, swapped ? residual : x}, kShape);
    norm(b, sum, w, kShape);
    const Found found = run(b);
    EXPECT_EQ(found.rule, "middle");
    EXPECT(found.result.matches[0].parameters[0] == (Argument{Tag::kNode, residual.id}));
  }
}

TEST(machine_names_no_literal_it_does_not_know) {
  for (const bool keyword : {false, true}) {
    GraphBuilder b;
    const Node w = b.placeholder("w", {512});
    const Node residual = b.placeholder("residual", kShape);
    const Node x = reduce(b, b.placeholder("x", kShape), kShape);
    const Node sum = keyword ? b.call("aten.add.Tensor", {residual, x}, kShape, {{"alpha", 2}})
                             : b.call("aten.add.Tensor", {residual, x, 2}, kShape);
    norm(b, sum, w, kShape);
    const Found found = run(b);
    EXPECT_EQ(found.rule, "-");
    EXPECT_EQ(found.failure,
              "middle: at %5 = aten.add.Tensor, expected its other arguments at their defaults, "
              "found 2");
  }
}

ProgramSet with_fixed(bool required) {
  Pattern p = ir_first();
  p.operations[1].forms[0].fixed.push_back({{3, "variance_size", -1}, Literal{}, required});
  return programs_of({p});
}

std::string with_variance(const ProgramSet& programs, const std::vector<Arg>& more,
                          const std::vector<std::pair<std::string, Arg>>& kwargs = {}) {
  GraphBuilder b;
  const Node x = b.call(kIrReduce, {b.placeholder("x", kShape), "tp"}, kShape);
  std::vector<Arg> args{x, b.placeholder("w", {512}), 1e-6};
  args.insert(args.end(), more.begin(), more.end());
  b.call(kIrNorm, args, kShape, kwargs);
  return run(b, programs).rule;
}

TEST(machine_checks_fixed_arguments) {
  EXPECT_EQ(with_variance(with_fixed(false), {}), "first");
  EXPECT_EQ(with_variance(with_fixed(false), {nullptr}), "first");
  EXPECT_EQ(with_variance(with_fixed(false), {}, {{"variance_size", nullptr}}), "first");
  EXPECT_EQ(with_variance(with_fixed(false), {64}), "-");
  EXPECT_EQ(with_variance(with_fixed(false), {}, {{"variance_size", 64}}), "-");
  EXPECT_EQ(with_variance(with_fixed(false), {}, {{"another", nullptr}}), "-");
  EXPECT_EQ(with_variance(with_fixed(true), {}), "-");
  EXPECT_EQ(with_variance(with_fixed(true), {nullptr}), "first");
}

TEST(machine_fetches_items_and_keywords) {
  Pattern p = ir_first();
  p.operations[1].forms[0].where[0] = {-1, "bases", 1};
  const ProgramSet programs = programs_of({p});
  const auto rule = [&](const Arg& bases) {
    GraphBuilder b;
    const Node x = b.call(kIrReduce, {b.placeholder("x", kShape), "tp"}, kShape);
    EXPECT_EQ(x.id, 1U);
    b.call(kIrNorm, {}, kShape, {{"bases", bases}, {"x", x}});
    return run(b, programs).failure;
  };
  EXPECT_EQ(rule(list({0, 1})),
            "first: at %2 = vllm_ir.rms_norm.default, operand 0: expected the value of the stream, "
            "found 1");
  EXPECT_EQ(rule(list({})),
            "first: at %2 = vllm_ir.rms_norm.default, operand 0: expected the value of the stream, "
            "found nothing");
}

TEST(machine_ignores_no_item_of_a_list) {
  Pattern p = ir_first();
  p.operations[1].forms[0].where[0] = {0, {}, 0};
  const ProgramSet programs = programs_of({p});
  for (const bool more : {false, true}) {
    GraphBuilder b;
    const Node x = b.call(kIrReduce, {b.placeholder("x", kShape), "tp"}, kShape);
    const Node w = b.placeholder("w", {512});
    b.call(kIrNorm, {more ? list({x, 7}) : list({x}), w, 1e-6}, kShape);
    const Found found = run(b, programs);
    EXPECT_EQ(found.rule, more ? "-" : "first");
    if (!more) continue;
    EXPECT_EQ(found.failure,
              "first: at %3 = vllm_ir.rms_norm.default, expected its other arguments at their "
              "defaults, found [%1, 7]");
  }
}

// --- the same parameter twice
// ---------------------------------------------------------------------

std::string twice(const std::vector<Arg>& more) {
  Pattern p;
  p.rule = "twice";
  p.parameters = {Role::kReplicated};
  p.parameter_names = {"a"};
  p.operations = {{}, call_of({"f"}, {operation(0), parameter(0), parameter(0)})};
  GraphBuilder b;
  const Node x = b.call(kIrReduce, {b.placeholder("x", kShape), "tp"}, kShape);
  std::vector<Arg> args{x};
  args.insert(args.end(), more.begin(), more.end());
  b.call("f", args, kShape);
  return run(b, programs_of({p})).rule;
}

TEST(machine_compares_a_parameter_with_itself) {
  EXPECT_EQ(twice({1, 1}), "twice");
  EXPECT_EQ(twice({1, 2}), "-");
  EXPECT_EQ(twice({nullptr}), "twice");  // absent is None
  EXPECT_EQ(twice({nullptr, 1}), "-");
  EXPECT_EQ(twice({list({1, list({2})}), list({1, list({2})})}), "twice");
  EXPECT_EQ(twice({list({1, list({2})}), list({1, list({3})})}), "-");
  EXPECT_EQ(twice({list({1}), tuple({1})}), "-");
  EXPECT_EQ(twice({Node{0}, Node{0}}), "twice");
}

TEST(machine_compares_deep_arguments_without_recursion) {
  EXPECT_EQ(twice({nested(1, kDeep), nested(1, kDeep)}), "twice");
  EXPECT_EQ(twice({nested(1, kDeep), nested(1, kDeep - 1)}), "-");
}

// --- choice -------------------------------------------------------------------------------------

// Only the last of the users goes on as the pattern says; whatever the others bound is forgotten.
TEST(machine_backtracks_over_users) {
  GraphBuilder b;
  const Node x = reduce(b, b.placeholder("x", kShape), kShape);
  std::vector<Node> residuals;
  for (int i = 0; i < 5; ++i) residuals.push_back(b.placeholder("r" + std::to_string(i), kShape));
  const Node w = b.placeholder("w", {512});
  Node last;
  for (int i = 0; i < 5; ++i) {
    const Node sum = b.call("aten.add.Tensor", {residuals[static_cast<size_t>(i)], x}, kShape);
    last = i == 4 ? norm(b, sum, w, kShape) : b.call(kCast, {sum, dtype("torch.float32")}, kShape);
  }
  const Found found = run(b);
  EXPECT_EQ(found.rule, "middle");
  EXPECT_EQ(found.result.matches[0].operations.back(), last.id);
  EXPECT(found.result.matches[0].parameters[0] == (Argument{Tag::kNode, residuals[4].id}));
}

TEST(machine_gives_each_user_its_match) {
  Pattern p = ir_first();
  const ProgramSet programs = programs_of({p});
  GraphBuilder b;
  const Node x = b.call(kIrReduce, {b.placeholder("x", kShape), "tp"}, kShape);
  const Node w = b.placeholder("w", {512});
  const Node first = b.call(kIrNorm, {x, w, 1e-5}, kShape);
  b.call(kIrNorm, {x, w, 1e-6}, kShape);
  const Found found = run(b, programs);
  EXPECT_EQ(found.result.matches.size(), 1U);
  EXPECT_EQ(found.result.matches[0].operations[1], first.id);
}

// --- the failure recorder ------------------------------------------------------------------------

TEST(failure_without_any_user) {
  GraphBuilder b;
  b.call(kIrReduce, {b.placeholder("x", kShape), "tp"}, kShape);
  const Found found = run(b);
  EXPECT(found.result.reports[0].outcome == Outcome::kNoMatch);
  EXPECT_EQ(found.failure,
            "first: expected vllm_ir.rms_norm.default on %1 = "
            "vllm.all_reduce.default, found no user");
}

TEST(failure_without_a_rule) {
  GraphBuilder b;
  b.call(kIrReduce, {b.placeholder("x", kShape), "tp"}, kShape);
  EXPECT_EQ(run(b, {}).failure, "nothing reads it");
}

TEST(failure_lists_a_few_users) {
  GraphBuilder b;
  const Node x = b.call(kIrReduce, {b.placeholder("x", kShape), "tp"}, kShape);
  for (int i = 0; i < 4; ++i) b.call("aten.relu.default", {x}, kShape);
  EXPECT_EQ(run(b).failure,
            "first: expected vllm_ir.rms_norm.default on %1 = vllm.all_reduce.default, found %2 = "
            "aten.relu.default, %3 = aten.relu.default, %4 = aten.relu.default, ...");
}

TEST(failure_names_the_deepest_mismatch) {
  GraphBuilder b;
  const Node w = b.placeholder("w", {512});
  const Node x = reduce(b, b.placeholder("x", kShape), kShape);
  const Node f32 = b.call(kCast, {x, dtype("torch.float32")}, kShape);
  b.call("aten.pow.Tensor_Scalar", {f32, 3}, kShape);
  b.call(kCast, {x, dtype("torch.float64")}, kShape);
  (void)w;
  EXPECT_EQ(run(b).failure,
            "first: at %5 = aten.pow.Tensor_Scalar, operand 1: expected 2, found 3");
}

TEST(failure_of_another_stream) {
  GraphBuilder b;
  const Node w = b.placeholder("w", {512});
  const Node x = reduce(b, b.placeholder("x", kShape), kShape);
  const Node f32 = b.call(kCast, {x, dtype("torch.float32")}, kShape);
  const Node square = b.call("aten.pow.Tensor_Scalar", {f32, 2}, kShape);
  const Node mean = b.call("aten.mean.dim", {square, list({-1}), true}, {4096, 1});
  const Node sum = b.call("aten.add.Scalar", {mean, 1e-6}, {4096, 1});
  const Node scale = b.call("aten.rsqrt.default", {sum}, {4096, 1});
  b.call("aten.mul.Tensor", {w, scale}, kShape);
  EXPECT_EQ(run(b).failure,
            "first: at %9 = aten.mul.Tensor, operand 0: expected the value of the stream, found "
            "%w");
}

}  // namespace
}  // namespace spfast::testing
