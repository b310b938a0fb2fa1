#include "base/check.h"
#include "build.h"
#include "harness.h"
#include "rules.h"

namespace spfast::testing {
namespace {

bool equals(const Arg& value, const Literal& literal, uint32_t rank = 0) {
  GraphBuilder b;
  const Node node = b.call("f", {value});
  const NodeTable t = b.finish();
  return literal_equals(t, t.args(node.id)[0], literal, rank);
}

TEST(literal_numbers_compare_by_value) {
  EXPECT(equals(2, integer(2)));
  EXPECT(equals(2.0, integer(2)));
  EXPECT(equals(2, number(2.0)));
  EXPECT(equals(-0.0, number(0.0)));
  EXPECT(!equals(3, integer(2)));
  EXPECT(!equals(1e-5, number(1e-6)));
  EXPECT(!equals(true, integer(1)));
  EXPECT(!equals(1, truth(true)));
  EXPECT(equals(true, truth(true)));
  EXPECT(!equals(false, truth(true)));
}

TEST(literal_words_compare_with_their_kind) {
  EXPECT(equals("sum", words(Tag::kString, "sum")));
  EXPECT(!equals("avg", words(Tag::kString, "sum")));
  EXPECT(!equals("torch.float32", words(Tag::kDtype, "torch.float32")));
  EXPECT(equals(dtype("torch.float32"), words(Tag::kDtype, "torch.float32")));
  EXPECT(equals(nullptr, Literal{}));
  EXPECT(!equals(0, Literal{}));
}

TEST(literal_lists_equal_tuples) {
  Literal pair;
  pair.tag = Tag::kList;
  pair.items = {integer(1), integer(2)};
  EXPECT(equals(list({1, 2}), pair));
  EXPECT(equals(tuple({1, 2}), pair));
  EXPECT(!equals(list({1, 3}), pair));
  EXPECT(!equals(list({1}), pair));
  EXPECT(!equals(list({1, 2, 3}), pair));
  EXPECT(!equals(1, pair));
}

TEST(literal_last_dim) {
  EXPECT(equals(-1, last_dim()));
  EXPECT(equals(list({-1}), last_dim()));
  EXPECT(equals(1, last_dim(), 2));
  EXPECT(equals(list({2}), last_dim(), 3));
  EXPECT(!equals(1, last_dim(), 3));
  EXPECT(!equals(1, last_dim(), 0));
  EXPECT(!equals(list({-1, -2}), last_dim(), 2));
  EXPECT(!equals(list({}), last_dim(), 2));
  EXPECT(!equals(-1.0, last_dim(), 2));
}

TEST(literal_in_words) {
  EXPECT_EQ(format_literal(number(2.5)), "2.5");
  EXPECT_EQ(format_literal(number(3)), "3.0");
  EXPECT_EQ(format_literal(number(1e-6)), "1e-06");
  EXPECT_EQ(format_literal(integer(-4)), "-4");
  EXPECT_EQ(format_literal(truth(true)), "True");
  EXPECT_EQ(format_literal(Literal{}), "None");
  EXPECT_EQ(format_literal(last_dim()), "the last dim");
  EXPECT_EQ(format_literal(words(Tag::kString, "sum")), "'sum'");
  EXPECT_EQ(format_literal(words(Tag::kDtype, "torch.float32")), "torch.float32");
  Literal pair;
  pair.tag = Tag::kList;
  pair.items = {integer(1), words(Tag::kString, "a")};
  EXPECT_EQ(format_literal(pair), "[1, 'a']");
}

std::string complaint(const Pattern& pattern) {
  return message_of<UserError>([&] { check_pattern(pattern); }, __FILE__, __LINE__);
}

TEST(pattern_well_formed) {
  for (const Pattern& pattern :
       {ir_first(), ir_middle(), functional_first(), functional_middle()}) {
    check_pattern(pattern);
  }
}

TEST(pattern_complaints) {
  Pattern p = ir_first();
  p.operations = {};
  EXPECT_EQ(complaint(p), "pattern 'first' does not start at an all_reduce");
  p = ir_first();
  p.operations[0] = p.operations[1];
  EXPECT_EQ(complaint(p), "pattern 'first' does not start at an all_reduce");
  p = ir_first();
  p.operations.pop_back();
  EXPECT_EQ(complaint(p), "pattern 'first' has no operation after its all_reduce");
  p = ir_first();
  p.parameter_names.pop_back();
  EXPECT_EQ(complaint(p), "pattern 'first' has parameters without names");
  p = ir_first();
  p.operations[1].forms.clear();
  EXPECT_EQ(complaint(p), "pattern 'first' has an operation without an operator");
  p = ir_first();
  p.operations[1].forms[0].where.pop_back();
  EXPECT_EQ(complaint(p), "pattern 'first' has a form of another arity");
  p = ir_first();
  p.operations[1] = call_of({"f"}, {operation(0)}, true);
  EXPECT_EQ(complaint(p),
            "pattern 'first' has a commutative operation with less than two operands");
  p = ir_first();
  p.operations[1].operands[1] = operation(1);
  EXPECT_EQ(complaint(p), "pattern 'first' uses a result before it is made");
  p = ir_first();
  p.operations[1].operands[1] = parameter(2);
  EXPECT_EQ(complaint(p), "pattern 'first' uses a parameter that it does not have");
  p = ir_first();
  p.operations[1].operands[1] = literals({});
  EXPECT_EQ(complaint(p), "pattern 'first' has a literal without a value");
  p = ir_first();
  p.operations[1].operands[0] = any();
  EXPECT_EQ(complaint(p), "pattern 'first' never reads its all_reduce");
}

}  // namespace
}  // namespace spfast::testing
