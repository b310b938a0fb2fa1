// What the ranks share: proved, their own, or unknown.
#include "graphs.h"
#include "harness.h"
#include "plans.h"
#include "table/operators.h"

using namespace spfast;
using namespace spfast::testing;

namespace {

const Shape kRows{4096, 512};

// What is known of each value of a graph over group "0", by the node's number.
std::vector<Sharing> sharing_of(const NodeTable& table, Trust trust = {}) {
  static const RowRules rows = row_rules();
  const auto all = families();
  const std::vector<GroupInfo> groups{
      {find_anchors(table, anchor_families()).at(0).group, 4, 1, {}}};
  const Effects effects(table);
  const Replication replication(table, effects, rows, all, groups, std::move(trust));
  std::vector<Sharing> out;
  for (NodeId node = 0; node < table.size(); ++node) out.push_back(replication.of(node, 0));
  return out;
}

}  // namespace

TEST(traits_of_operators_by_name) {
  EXPECT(operator_traits("aten.add.Tensor").deterministic);
  EXPECT(operator_traits("_operator.getitem").deterministic);
  EXPECT(!operator_traits("aten.bernoulli.p").deterministic);
  EXPECT(!operator_traits("aten.normal_.default").deterministic);
  EXPECT(!operator_traits("aten.empty.memory_format").deterministic);
  EXPECT(!operator_traits("mylib.attention.default").deterministic);
  EXPECT(operator_traits("mylib.get_rank.default").rank);
  EXPECT(operator_traits("aten.sym_size.int").sizes);
  for (const char* name : {"aten.sym_size.int", "_operator.floordiv", "math.ceil", "torch.sym_max"})
    EXPECT(operator_traits(name).number);
  for (const char* name :
       {"_operator.getitem", "aten.mul.Tensor", "mathematics.add", "vllm_ir.norm"})
    EXPECT(!operator_traits(name).number);
  EXPECT(operator_traits("aten.nonzero.default").data_sized);
  EXPECT(operator_traits("_c10d_functional.wait_tensor.default").deterministic);
  EXPECT(operator_traits("_c10d_functional.wait_tensor.default").collective == Collective::kNone);
  EXPECT(operator_traits("c10d.allreduce_.default").collective == Collective::kAllReduce);
  EXPECT(operator_traits("vllm.all_gather.default").collective == Collective::kAllGather);
  EXPECT(operator_traits("_c10d_functional.broadcast.default").collective == Collective::kOther);
  EXPECT(operator_traits("_c10d_functional.all_to_all_single.default").collective ==
         Collective::kAllToAll);
  EXPECT(operator_traits("higher_order.auto_functionalized[_C.shm_allreduce.default]").collective ==
         Collective::kAllReduce);
}

TEST(replication_follows_from_collectives_constants_and_sizes) {
  GraphBuilder b;
  const Node x = b.placeholder("x", kRows);
  const Node reduced = reduce(b, x, kRows);
  const Node ones = b.call("aten.full.default", {list({4096, 512}), 1.0}, kRows);
  const Node sum = b.call("aten.add.Tensor", {reduced, ones}, kRows);
  const Node noise = b.call("aten.bernoulli.p", {sum, 0.5}, kRows);
  const Node other = reduce(b, sum, kRows, "1");
  const Node mixed = b.call("aten.add.Tensor", {sum, b.placeholder("y", kRows)}, kRows);
  b.output({noise, other, mixed});
  const NodeTable table = b.finish();
  const auto sharing = sharing_of(table);
  const auto of = [&](const Node& node) { return sharing[node.id]; };
  EXPECT(of(reduced) == Sharing::kReplicated);
  EXPECT(of(ones) == Sharing::kReplicated);
  EXPECT(of(sum) == Sharing::kReplicated);
  EXPECT(of(noise) == Sharing::kUnknown);
  EXPECT(of(other) == Sharing::kUnknown);
  EXPECT(of(mixed) == Sharing::kUnknown);
  EXPECT(of(x) == Sharing::kOwn);
}

// Whatever reads what a collective gave away has another value on each rank too; only its sizes are
// known.
TEST(replication_of_what_is_computed_from_a_ranks_own) {
  GraphBuilder b;
  const Node x = b.placeholder("x", kRows);
  const Node weight = b.placeholder("weight", {512, 512});
  const Node product = b.call("aten.mm.default", {x, weight}, kRows);
  const Node tokens = b.call("aten.sym_size.int", {x, 0}, {});
  const Node reduced = reduce(b, x, kRows);
  b.output({product, tokens, reduced});
  const NodeTable table = b.finish();
  const auto sharing = sharing_of(table);
  EXPECT(sharing[product.id] == Sharing::kOwn);
  EXPECT(sharing[tokens.id] == Sharing::kReplicated);
  EXPECT(sharing[reduced.id] == Sharing::kReplicated);
  EXPECT(sharing[weight.id] == Sharing::kUnknown);
}

// A maximum leaves equal values as they are, and is no evidence of what was reduced over all
// tokens. What says so is the reduce op, whatever the group is called.
TEST(replication_reads_the_reduce_op_where_the_family_has_it) {
  for (const char* op : {"sum", "max", "avg"}) {
    GraphBuilder b;
    const Node x = b.placeholder("x", kRows);
    const Node total = b.call("aten.mean.dim", {x, list({0})}, {512});
    const Node all_reduce =
        b.call("_c10d_functional.all_reduce.default", {total, op, "max"}, {512});
    b.output({b.call("_c10d_functional.wait_tensor.default", {all_reduce}, {512})});
    const NodeTable table = b.finish();
    const auto sharing = sharing_of(table);
    EXPECT(sharing[total.id] == Sharing::kOwn);
    EXPECT_EQ(sharing[x.id] == Sharing::kOwn, std::string(op) == "sum");
  }
}

// Of a sum, somebody's part is blamed: what weights went into before an input.
TEST(replication_blames_the_likely_part_of_a_sum) {
  for (const bool computed : {true, false}) {
    GraphBuilder b;
    const Node stream = b.placeholder("stream", kRows);
    const Node given = b.placeholder("given", kRows);
    const Node weight = b.placeholder("weight", {512, 512});
    const Node part = computed ? b.call("aten.mm.default", {given, weight}, kRows) : given;
    const Node sum = b.call("aten.add.Tensor", {stream, part}, kRows);
    b.output({reduce(b, sum, kRows)});
    const NodeTable table = b.finish();
    const auto sharing = sharing_of(table);
    EXPECT(sharing[sum.id] == Sharing::kOwn);
    EXPECT(sharing[part.id] == Sharing::kOwn);
    EXPECT(sharing[weight.id] == Sharing::kUnknown);
    EXPECT(sharing[stream.id] == (computed ? Sharing::kUnknown : Sharing::kOwn));
  }
}

TEST(replication_of_what_somebody_vouches_for) {
  GraphBuilder b;
  const Node x = b.placeholder("x", kRows);
  const Node y = b.placeholder("y", kRows);
  const Node sum = b.call("aten.add.Tensor", {y, 1.0}, kRows);
  b.output({reduce(b, x, kRows), sum});
  const NodeTable table = b.finish();
  EXPECT(sharing_of(table)[sum.id] == Sharing::kUnknown);
  EXPECT(sharing_of(table, {false, {y.id}})[sum.id] == Sharing::kReplicated);
}

// Each alone may be shared; both together would make the all_reduce one of equal values.
TEST(assumptions_that_contradict_the_graph_together_are_refuted) {
  GraphBuilder b;
  const Node left = b.placeholder("left", kRows);
  const Node right = b.placeholder("right", {512, 512});
  const Node one = reduce(b, b.placeholder("a", kRows), kRows);
  const Node rows = b.call("aten.add.Tensor", {one, left}, kRows);
  const Node two = reduce(b, b.placeholder("b", {512, 512}), {512, 512});
  const Node weights = b.call("aten.add.Tensor", {two, right}, {512, 512});
  const Node normed = norm(b, rows, b.call("aten.full.default", {list({512}), 1.0}, {512}), kRows);
  const Node scaled =
      norm(b, weights, b.call("aten.full.default", {list({512}), 1.0}, {512}), {512, 512});
  b.output({reduce(b, b.call("aten.mm.default", {normed, scaled}, kRows), kRows)});
  const Planned planned = plan_of(b.finish());
  EXPECT_EQ(planned.rewritten(), 0U);
}

// What is summed over one group and then over another differs in both; what was scattered over a
// group differs in every other that is not known to cross it.
TEST(replication_over_several_groups) {
  GraphBuilder b;
  const Node x = b.placeholder("x", kRows);
  const Node summed = reduce(b, reduce(b, x, kRows, "1"), kRows, "0");
  const Node part = b.call("_c10d_functional.reduce_scatter_tensor.default",
                           {summed, "sum", 4, "2"}, {1024, 512});
  b.output({part});
  const NodeTable table = b.finish();
  static const RowRules rows = row_rules();
  const auto all = families();
  const Effects effects(table);
  for (const bool crosses : {true, false}) {
    std::vector<GroupInfo> groups;
    for (const Anchor& anchor : find_anchors(table, anchor_families())) {
      groups.push_back({anchor.group, 4, 1, {}});
    }
    const auto others = find_other_groups(table, all, groups);
    EXPECT_EQ(others.size(), 1U);
    groups.push_back({group_of(table, all, others.at(0)), 0, 0, {}});
    if (crosses) groups[2].crosses = groups[1].crosses = {0};
    if (crosses) groups[0].crosses = {1, 2};
    const Replication replication(table, effects, rows, all, groups, {});
    EXPECT(replication.of(x.id, 0) == Sharing::kOwn);  // group "1"
    EXPECT(replication.of(x.id, 1) == Sharing::kOwn);  // group "0", through the sum over "1"
    EXPECT(replication.of(x.id, 2) == Sharing::kOwn);  // group "2", through both
    EXPECT_EQ(replication.of(part.id, 0) == Sharing::kOwn, !crosses);
    EXPECT(replication.of(part.id, 1) == Sharing::kOwn);
    EXPECT(replication.evidence(part.id, 1) == part.id);
  }
}
