#include <cmath>
#include <limits>

#include "base/check.h"
#include "build.h"
#include "harness.h"

namespace spfast::testing {
namespace {

std::vector<NodeId> ids(std::span<const NodeId> nodes) { return {nodes.begin(), nodes.end()}; }

TEST(table_operands_and_users) {
  GraphBuilder b;
  const Node x = b.placeholder("x");
  const Node y = b.placeholder("y");
  const Node add = b.call("aten.add.Tensor", {x, y}, {}, {{"alpha", 2}});
  const Node twice = b.call("aten.mul.Tensor", {x, x});
  const Node out = b.output({add, twice});
  const NodeTable t = b.finish();
  EXPECT_EQ(t.size(), 5U);
  EXPECT(ids(t.users(x.id)) == (std::vector<NodeId>{add.id, twice.id}));
  EXPECT(ids(t.users(y.id)) == std::vector<NodeId>{add.id});
  EXPECT(ids(t.users(add.id)) == std::vector<NodeId>{out.id});
  EXPECT(t.users(out.id).empty());
  EXPECT_EQ(t.args(add.id).size(), 2U);
  EXPECT_EQ(t.kwargs(add.id).size(), 2U);
  EXPECT_EQ(t.string(t.kwargs(add.id)[0].payload), "alpha");
  EXPECT_EQ(t.as_int(t.kwarg(add.id, t.kwargs(add.id)[0].payload)), 2);
  EXPECT(t.kwarg(twice.id, t.kwargs(add.id)[0].payload).tag == Tag::kAbsent);
}

TEST(table_users_through_containers) {
  GraphBuilder b;
  const Node x = b.placeholder("x");
  const Node cat = b.call("aten.cat.default", {list({x, tuple({1, list({x}, Tag::kDict)})}), 0});
  const NodeTable t = b.finish();
  EXPECT(ids(t.users(x.id)) == std::vector<NodeId>{cat.id});
  EXPECT_EQ(t.operands(cat.id).size(), 7U);
  EXPECT_EQ(t.format_value(t.args(cat.id)[0]), "[%x, (1, {%x})]");
}

TEST(table_interns_literals_by_bits) {
  NodeTable t;
  EXPECT(t.make_int(7) == t.make_int(7));
  EXPECT(!(t.make_int(7) == t.make_int(8)));
  EXPECT(t.make_float(0.5) == t.make_float(0.5));
  EXPECT(!(t.make_float(0.0) == t.make_float(-0.0)));
  EXPECT(std::signbit(t.as_float(t.make_float(-0.0))));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT(t.make_float(nan) == t.make_float(nan));
  EXPECT(std::isnan(t.as_float(t.make_float(nan))));
  EXPECT(!(t.make_int(1) == t.make_float(1.0)));
  EXPECT(t.make_string(Tag::kString, "a") == t.make_string(Tag::kString, "a"));
  EXPECT(!(t.make_string(Tag::kString, "a") == t.make_string(Tag::kDtype, "a")));
  for (const int64_t extreme :
       {std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max()}) {
    EXPECT_EQ(t.as_int(t.make_int(extreme)), extreme);
  }
}

TEST(table_reads_numbers) {
  NodeTable t;
  EXPECT_EQ(t.as_float(t.make_int(3)), 3.0);
  EXPECT_EQ(t.as_int({Tag::kBool, 1}), 1);
  const std::string text =
      message_of<InternalError>([&] { (void)t.as_int(t.make_float(1.5)); }, __FILE__, __LINE__);
  EXPECT(text.find("broken invariant: value.tag == Tag::kInt") == 0);
}

TEST(table_refuses_an_operand_that_comes_later) {
  GraphBuilder b;
  b.call("aten.relu.default", {Node{0}});
  const std::string text = message_of<InternalError>([&] { b.table.finish(); }, __FILE__, __LINE__);
  EXPECT(text.find("broken invariant: value.payload < user") == 0);
}

TEST(table_formats_values) {
  GraphBuilder b;
  const Node x = b.placeholder("x");
  const Node call = b.call("f", {nullptr, true, -3, 1e-5, 2.0, "s", dtype("torch.float32"), x,
                                 list({1, 2}, Tag::kSlice), tuple({}), list({"k", 1}, Tag::kDict)});
  const NodeTable t = b.finish();
  std::string text;
  for (const Argument value : t.args(call.id)) text += t.format_value(value) + ";";
  EXPECT_EQ(text, "None;True;-3;1e-05;2.0;'s';torch.float32;%x;slice(1, 2);();{'k': 1};");
  EXPECT_EQ(t.node_label(call.id), "1");
  EXPECT_EQ(t.format_value({}), "nothing");
}

TEST(table_formats_long_values_in_bounds) {
  GraphBuilder b;
  const Node call = b.call("f", {list(std::vector<Arg>(100000, Arg(7)))});
  const NodeTable t = b.finish();
  const std::string text = t.format_value(t.args(call.id)[0]);
  EXPECT(text.size() < 200);
  EXPECT(text.substr(text.size() - 5) == " ...]");
}

TEST(table_meta) {
  GraphBuilder b;
  const Node x = b.placeholder("x", {"s0", 4, 8});
  const Node y = b.placeholder("y");
  const NodeTable t = b.finish();
  EXPECT(t.meta(x.id).kind == MetaKind::kTensor);
  EXPECT(t.meta(y.id).kind == MetaKind::kUnknown);
  EXPECT_EQ(t.format_dims(t.dims(t.meta(x.id))), "[s0, 4, 8]");
  EXPECT_EQ(t.expr(t.meta(x.id).tokens.expr_id()), "4*s0");
}

TEST(dim_tells_numbers_from_expressions) {
  EXPECT(!Dim::of(0).is_expr());
  EXPECT(!Dim::of(-1).is_expr());
  EXPECT(!Dim::of(std::numeric_limits<int64_t>::min()).is_expr());
  EXPECT(Dim::expr(0).is_expr());
  EXPECT_EQ(Dim::expr(kNone - 1).expr_id(), kNone - 1);
}

TEST(targets_are_known_by_name) {
  const TargetId view = intern_target("aten.view.default");
  EXPECT_EQ(view, intern_target("aten.view.default"));
  EXPECT_EQ(target_name(view), "aten.view.default");
  EXPECT_EQ(int{target_flags(view)}, target_flag::kView | target_flag::kAliases);
  const TargetId fresh = intern_target("test.fresh.default");
  EXPECT_EQ(int{target_flags(fresh)}, 0);
  describe_target(fresh, target_flag::kMutates, 0b10);
  describe_target(fresh, target_flag::kAliases, kWritesKeywords);
  EXPECT_EQ(int{target_flags(fresh)}, target_flag::kMutates | target_flag::kAliases);
  EXPECT_EQ(target_writes(fresh), 0b10U | kWritesKeywords);
  EXPECT_EQ(target_writes(intern_target("aten.copy_.default")), 1U);
}

TEST(interner_keeps_views_valid) {
  StringInterner strings;
  (void)strings.intern("0");
  const std::string_view early = strings.at(0);
  for (int i = 0; i < 10000; ++i) EXPECT_EQ(strings.intern(std::to_string(i)), uint32_t(i));
  const StringInterner moved = std::move(strings);
  EXPECT_EQ(moved.size(), 10000U);
  EXPECT_EQ(moved.at(1234), "1234");
  EXPECT(early.data() == moved.at(0).data());
}

TEST(interner_takes_texts_of_any_length) {
  StringInterner strings;
  const std::string long_text(100'000, 'x');
  const std::string_view with_zero("a\0b", 3);
  EXPECT_EQ(strings.intern(""), 0U);
  EXPECT_EQ(strings.intern(long_text), 1U);
  EXPECT_EQ(strings.intern("a"), 2U);
  EXPECT_EQ(strings.intern(with_zero), 3U);
  EXPECT_EQ(strings.intern(long_text), 1U);
  EXPECT_EQ(strings.intern(""), 0U);
  EXPECT_EQ(strings.at(0), "");
  EXPECT_EQ(strings.at(1), long_text);
  EXPECT_EQ(strings.at(3), with_zero);
  EXPECT_EQ(strings.size(), 4U);
}

// A table has a name for each node: what a name costs beside its characters is most of a table.
TEST(interner_costs_little_beside_the_characters) {
  StringInterner strings;
  size_t characters = 0;
  for (int i = 0; i < 30'000; ++i) {
    const std::string name = "fused_add_rms_norm_" + std::to_string(i);
    characters += name.size();
    (void)strings.intern(name);
  }
  strings.shrink_to_fit();
  EXPECT(strings.memory_bytes() <= characters + 30 * 30'000);
}

}  // namespace
}  // namespace spfast::testing
