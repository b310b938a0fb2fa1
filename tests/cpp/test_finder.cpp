// Anchors, the choice among matches, and the outcomes that are no match.
#include <limits>
#include <tuple>

#include "graphs.h"
#include "harness.h"

namespace spfast::testing {
namespace {

TEST(finder_finds_every_all_reduce) {
  const NodeTable t = functional_stack(5, kShape);
  const auto anchors = find_anchors(t, anchor_families());
  EXPECT_EQ(anchors.size(), 5U);
  for (const Anchor& anchor : anchors) {
    EXPECT_EQ(anchor.family, 1U);
    EXPECT_EQ(anchor.reduced, anchor.all_reduce + 1);
    EXPECT_EQ(t.string(anchor.group.payload), "0");
    EXPECT_EQ(t.string(anchor.reduce_op.payload), "sum");
  }
}

TEST(finder_matches_a_stack) {
  const ProgramSet programs = all_programs();
  const NodeTable t = functional_stack(5, kShape);
  const MatchResult result = match(t, programs);
  EXPECT_EQ(result.matches.size(), 5U);
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(rule_of(result, programs, i), i == 0 ? "first" : "middle");
    EXPECT_EQ(result.matches[i].anchor, i);
    EXPECT_EQ(result.reports[i].match, i);
    EXPECT(result.reports[i].outcome == Outcome::kMatched);
  }
}

TEST(finder_of_an_empty_graph) {
  GraphBuilder b;
  EXPECT(match(b.finish(), all_programs()).anchors.empty());
}

TEST(finder_prefers_priority_then_length) {
  Pattern plain = ir_first();
  Pattern quantised = ir_first();
  quantised.rule = "quantised";
  quantised.operations.push_back(call_of({"test.quant.default"}, {operation(1)}));
  Pattern favoured = ir_first();
  favoured.rule = "favoured";
  favoured.priority = 1;
  GraphBuilder b;
  const Node x = b.call(kIrReduce, {b.placeholder("x", kShape), "tp"}, kShape);
  const Node n = b.call(kIrNorm, {x, b.placeholder("w", {512}), 1e-5}, kShape);
  b.call("test.quant.default", {n}, kShape);
  const NodeTable t = b.finish();
  const auto rule = [&](const std::vector<Pattern>& patterns) {
    const ProgramSet programs = programs_of(patterns);
    return rule_of(match(t, programs), programs, 0);
  };
  EXPECT_EQ(rule({plain, quantised}), "quantised");
  EXPECT_EQ(rule({quantised, plain}), "quantised");
  EXPECT_EQ(rule({quantised, plain, favoured}), "favoured");
}

// A norm whose value is read in full beside its quantisation is gathered once, not twice.
TEST(finder_prefers_what_leaves_less_to_gather) {
  Pattern quantised = ir_first();
  quantised.rule = "quantised";
  quantised.priority = 10;
  quantised.operations.push_back(call_of({"test.quant.default"}, {operation(1)}));
  const ProgramSet programs = programs_of({ir_first(), quantised});
  const auto rule = [&](auto&& read) {
    GraphBuilder b;
    const Node x = b.call(kIrReduce, {b.placeholder("x", kShape), "tp"}, kShape);
    const Node n = b.call(kIrNorm, {x, b.placeholder("w", {512}), 1e-5}, kShape);
    const Node alias = b.call("aten.alias.default", {n}, kShape);
    const Node q = b.call("test.quant.default", {alias}, kShape);
    const Node m = b.call("test.mm.default", {q}, kShape);
    read(b, x, n, alias);
    b.output({m});
    return rule_of(match(b.finish(), programs), programs, 0);
  };
  const auto call = [](GraphBuilder& b, const char* target, Node value) {
    b.call(target, {value}, kShape);
  };
  EXPECT_EQ(rule([&](GraphBuilder&, Node, Node, Node) {}), "quantised");
  EXPECT_EQ(rule([&](GraphBuilder& b, Node, Node n, Node) { call(b, "test.f", n); }), "first");
  // By another name.
  EXPECT_EQ(rule([&](GraphBuilder& b, Node, Node, Node a) { call(b, "test.f", a); }), "first");
  // The residual is gathered either way.
  EXPECT_EQ(rule([&](GraphBuilder& b, Node x, Node, Node) { call(b, "test.f", x); }), "quantised");
  // Nothing is read of it but its size, or a name that nobody reads.
  EXPECT_EQ(rule([&](GraphBuilder& b, Node, Node n, Node) { call(b, "aten.sym_size.int", n); }),
            "quantised");
  EXPECT_EQ(rule([&](GraphBuilder& b, Node, Node n, Node) { call(b, "aten.alias.default", n); }),
            "quantised");
}

// 100 users that are alike have 100^4 readings as four operations of a pattern: not all are tried.
TEST(finder_gives_up_where_too_many_users_are_alike) {
  Pattern p = ir_first();
  p.operations.resize(1);
  for (int i = 0; i < 4; ++i) p.operations.push_back(call_of({"test.f"}, {operation(0)}));
  const ProgramSet programs = programs_of({p});
  const auto outcome = [&](int users) {
    GraphBuilder b;
    const Node x = b.call(kIrReduce, {b.placeholder("x", kShape), "tp"}, kShape);
    for (int i = 0; i < users; ++i) b.call("test.f", {x}, kShape);
    return match(b.finish(), programs).reports[0].outcome;
  };
  EXPECT(outcome(8) == Outcome::kMatched);
  EXPECT(outcome(100) == Outcome::kTooMany);
}

// add(all_reduce, all_reduce): the later one takes the add, the earlier one is its residual.
TEST(finder_gives_a_shared_operation_to_the_later_anchor) {
  const ProgramSet programs = all_programs();
  GraphBuilder b;
  const Node w = b.placeholder("w", {512});
  const Node x = b.placeholder("x", kShape);
  const Node one = reduce(b, x, kShape);
  const Node two = reduce(b, x, kShape);
  norm(b, b.call("aten.add.Tensor", {two, one}, kShape), w, kShape);
  const MatchResult result = match(b.finish(), programs);
  EXPECT(result.reports[0].outcome == Outcome::kClaimed);
  EXPECT_EQ(rule_of(result, programs, 1), "middle");
  EXPECT(result.matches[0].parameters[0] == (Argument{Tag::kNode, one.id}));
}

Outcome outcome(GraphBuilder& b) { return match(b.finish(), all_programs()).reports[0].outcome; }

TEST(finder_outcomes) {
  {
    GraphBuilder b;
    b.call(kReduce, {b.placeholder("x", kShape), "sum", "0"}, kShape);
    EXPECT(outcome(b) == Outcome::kNoWait);
  }
  {
    GraphBuilder b;
    const Node r = b.call(kReduce, {b.placeholder("x", kShape), "sum", "0"}, kShape);
    b.call(kWait, {r}, kShape);
    b.call("aten.relu.default", {r}, kShape);
    EXPECT(outcome(b) == Outcome::kNoWait);
  }
  for (const Shape& shape : {Shape{}, Shape{512}, Shape{2, 2048, "s0"}}) {
    GraphBuilder b;
    b.call(kIrReduce, {b.placeholder("x", kShape), "tp"}, shape);
    EXPECT(outcome(b) == Outcome::kUnknownSize);
  }
  {
    GraphBuilder b;
    const Node r = b.call(kIrReduce, {b.placeholder("x", kShape), "tp"});
    b.set_missing(r);
    EXPECT(outcome(b) == Outcome::kUnknownSize);
  }
  {
    GraphBuilder b;
    b.call(kIrReduce, {b.placeholder("x", kShape)}, kShape, {{"group_name", "tp"}});
    EXPECT(outcome(b) == Outcome::kKeywords);
  }
  {
    GraphBuilder b;
    b.call(kIrReduce, {1, "tp"}, kShape);
    EXPECT(outcome(b) == Outcome::kKeywords);
  }
  {
    GraphBuilder b;
    b.call(kIrReduce, {}, kShape);
    EXPECT(outcome(b) == Outcome::kKeywords);
  }
  {
    GraphBuilder b;
    const Node x = b.placeholder("x", kShape);
    b.call(kIrReduce, {x, x}, kShape);
    EXPECT(outcome(b) == Outcome::kGroup);
  }
}

TEST(look_through_by_width) {
  GraphBuilder b;
  const Node x = b.placeholder("x", kShape);
  const Node clone = b.call("aten.clone.default", {x});
  const Node flat = b.call("aten.view.default", {clone, list({8, 512, 512})});
  const Node again = b.call("aten.alias.default", {flat});
  const Node narrow = b.call("aten.view.default", {again, list({8192, 256})});
  const Node wide = b.call("aten.reshape.default", {narrow, list({-1, 512})});
  const Node guessed = b.call("aten.view.default", {wide, list({4096, -1})});
  const Node one = b.call("aten.view.default", {x, list({512})});
  const NodeTable t = b.finish();
  const AliasRoots roots(t);
  for (const auto& [node, at512, at256] :
       {std::tuple{x, x, x}, std::tuple{clone, x, x}, std::tuple{flat, x, flat},
        std::tuple{again, x, flat}, std::tuple{narrow, narrow, flat},
        std::tuple{wide, narrow, wide}, std::tuple{guessed, guessed, guessed},
        std::tuple{one, one, one}}) {
    EXPECT_EQ(LookThrough(roots, 512).root(node.id), at512.id);
    EXPECT_EQ(LookThrough(roots, 256).root(node.id), at256.id);
  }
  EXPECT_EQ(roots.plain_root(again.id), flat.id);
}

// The roots are what following the sources one by one finds, for every width.
TEST(look_through_agrees_with_its_sources) {
  GraphBuilder b;
  std::vector<Node> nodes{b.placeholder("x")};
  uint64_t state = 1;
  const auto draw = [&](uint64_t limit) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    return (state >> 33) % limit;
  };
  for (int i = 0; i < 3000; ++i) {
    const Node from = nodes[nodes.size() - 1 - draw(std::min<size_t>(nodes.size(), 5))];
    switch (draw(5)) {
      case 0:
        nodes.push_back(b.call("aten.clone.default", {from}));
        break;
      case 1:
        nodes.push_back(b.call("aten.copy.default", {nodes[draw(nodes.size())], from}));
        break;
      case 2:
        nodes.push_back(b.call("aten.relu.default", {from}));
        break;
      default:
        nodes.push_back(
            b.call("aten.view.default", {from, list({-1, static_cast<int>(1 + draw(2))})}));
        break;
    }
  }
  const NodeTable t = b.finish();
  const AliasRoots roots(t);
  for (const int64_t width : {1, 2, 3}) {
    for (NodeId node = 0; node < t.size(); ++node) {
      NodeId root = node;
      for (NodeId next = root; next != kNone; next = LookThrough::source(t, root, width)) {
        root = next;
      }
      EXPECT_EQ(roots.root(node, width), root);
    }
  }
}

}  // namespace
}  // namespace spfast::testing
