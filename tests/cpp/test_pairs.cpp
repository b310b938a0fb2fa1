// Collectives and the products beside them, on hand-built graphs: the plan line by line, and why
// others stay.
#include <string>
#include <vector>

#include "graphs.h"
#include "harness.h"
#include "pairs/planner.h"
#include "plans.h"

namespace spfast::testing {
namespace {

constexpr const char* kMm = "aten.mm.default";
constexpr const char* kScatter = "vllm.reduce_scatter.default";
constexpr const char* kGather = "vllm.all_gather.default";

FusedLayout layout(const char* target, const std::vector<const char*>& names) {
  FusedLayout found;
  found.target = intern_target(target);
  for (const char* name : names) found.slots.push_back({fused_argument(name), {}, 0});
  return found;
}

struct Paired {
  NodeTable table;
  PairPlan plan;

  explicit Paired(GraphBuilder& b, const char* unworthy = "", bool symbolic = false)
      : table(b.finish()) {
    using Kind = CollectiveArg::Kind;
    const std::vector<CollectiveArg> slots{
        {Kind::kInput, 0}, {Kind::kInt, 0}, {Kind::kWorldSize, 0}, {Kind::kGroup, 0}};
    const std::vector<CollectiveForm> forms{
        {intern_target(kScatter), false, kNone, slots, {}},
        {intern_target(kGather), true, kNone, slots, {}},
    };
    FusedOperators operators;
    operators.gather =
        layout("symm_mem.fused_all_gather_matmul.default", {"A", "Bs", "gather_dim", "group_name"});
    operators.gather.slots.push_back({fused_argument("return_A"), "return_A", 0});
    operators.scatter = layout("symm_mem.fused_matmul_reduce_scatter.default",
                               {"A", "B", "reduce_op", "scatter_dim", "group_name"});
    operators.symbolic_shape = symbolic;
    const PairPolicy policy{
        [](Argument, NodeId) { return PairPolicy::Group{"", 3}; },
        [&](Argument, NodeId, Dim, Dim) { return std::string(unworthy); },
    };
    NothingElse none;
    plan = plan_pairs(table, none, forms, operators, policy);
  }
  [[nodiscard]] std::string text() const { return format_plan(table, plan.plan); }
};

Node scatter(GraphBuilder& b, Node x, const Shape& shape) {
  return b.call(kScatter, {x, 0, 4, "tp"}, shape);
}
Node gather(GraphBuilder& b, Node x, const Shape& shape) {
  return b.call(kGather, {x, 0, 4, "tp"}, shape);
}

TEST(pairs_what_is_scattered_is_gathered_again) {
  GraphBuilder b;
  const Node x = b.placeholder("x", {16, 32});
  const Node w = b.placeholder("w", {32, 64});
  const Node u = b.placeholder("u", {64, 8});
  const Node mine = scatter(b, b.call(kMm, {x, w}, {16, 64}), {4, 64});
  b.output({b.call(kMm, {gather(b, mine, {16, 64}), u}, {16, 8})});
  const Paired paired(b);
  EXPECT_EQ(paired.text(),
            "create %new_0 = symm_mem.fused_matmul_reduce_scatter.default(%x, %w, 'sum', 0, "
            "given 3) of its own before %4\n"
            "rewire %5: %4 -> %new_0\n"
            "create %new_1 = symm_mem.fused_all_gather_matmul.default(%new_0, [%u], 0, given 3, "
            "return_A=given 1) of its own before %6\n"
            "create %new_2 = _operator.getitem(%new_1, 1) of its own before %6\n"
            "create %new_3 = _operator.getitem(%new_2, 0) of its own before %6\n"
            "rewire %output: %6 -> %new_3\n"
            "erase %6\n"
            "erase %5\n"
            "erase %4\n"
            "erase %3\n");
  EXPECT_EQ(paired.plan.pairs.size(), size_t{2});
  EXPECT(paired.plan.left.empty());
}

TEST(pairs_what_else_reads_a_gather_reads_what_is_returned) {
  GraphBuilder b;
  const Node x = b.placeholder("x", {4, 32});
  const Node w = b.placeholder("w", {8, 32});
  const Node whole = gather(b, x, {16, 32});
  const Node one = b.call(kMm, {whole, w}, {16, 8});
  // The second weight is there only after the first product, which it does not read.
  const Node turned = b.call("aten.permute.default", {w, list({1, 0})}, {32, 8});
  const Node two = b.call(kMm, {whole, turned}, {16, 8});
  b.output({one, two, b.call("aten.relu.default", {whole}, {16, 32})});
  const Paired paired(b);
  EXPECT_EQ(paired.text(),
            "move %4 before %3\n"
            "create %new_0 = symm_mem.fused_all_gather_matmul.default(%x, [%w, %4], 0, given 3, "
            "return_A=given 2) of its own before %3\n"
            "create %new_1 = _operator.getitem(%new_0, 0) of its own before %3\n"
            "create %new_2 = _operator.getitem(%new_0, 1) of its own before %3\n"
            "create %new_3 = _operator.getitem(%new_2, 0) of its own before %3\n"
            "create %new_4 = _operator.getitem(%new_2, 1) of its own before %3\n"
            "rewire %6: %2 -> %new_1\n"
            "rewire %output: %3 -> %new_3\n"
            "rewire %output: %5 -> %new_4\n"
            "erase %5\n"
            "erase %3\n"
            "erase %2\n");
}

TEST(pairs_that_stay_say_why) {
  GraphBuilder b;
  const Node x = b.placeholder("x", {16, 32});
  const Node w = b.placeholder("w", {32, 64});
  const Node product = b.call(kMm, {x, w}, {16, 64});
  // What is computed of a product is no product.
  const Node more = b.call("aten.relu.default", {product}, {16, 64});
  const Node sum = scatter(b, more, {4, 64});
  b.output({gather(b, sum, {16, 64})});
  const Paired paired(b);
  EXPECT_EQ(paired.text(), "");
  EXPECT_EQ(paired.plan.left.size(), size_t{2});
  EXPECT_EQ(paired.plan.left[0].why, "what it sums is no matrix product");
  EXPECT_EQ(paired.plan.left[1].why, "no matrix product reads what it gathers");
}

TEST(pairs_are_made_where_they_are_worth_it_alone) {
  GraphBuilder b;
  const Node x = b.placeholder("x", {16, 32});
  const Node w = b.placeholder("w", {32, 64});
  b.output({scatter(b, b.call(kMm, {x, w}, {16, 64}), {4, 64})});
  const Paired paired(b, "it is small");
  EXPECT_EQ(paired.text(), "");
  EXPECT_EQ(paired.plan.left[0].why, "it is small");
}

}  // namespace
}  // namespace spfast::testing
