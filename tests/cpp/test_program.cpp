#include "base/check.h"
#include "base/work.h"
#include "build.h"
#include "harness.h"
#include "rules.h"

namespace spfast::testing {
namespace {

TEST(program_shares_beginnings) {
  const ProgramSet set = programs_of({functional_first(), functional_middle()});
  EXPECT_EQ(set.to_string(),
            "user of r0: prims.convert_element_type.default\n"
            "  user of r1: aten.pow.Tensor_Scalar\n"
            "    user of r2: aten.mean.dim\n"
            "      user of r3: aten.add.Scalar or aten.add.Tensor\n"
            "        user of r4: aten.rsqrt.default\n"
            "          user of r5: aten.mul.Tensor\n"
            "            user of r6: prims.convert_element_type.default\n"
            "              user of r7: aten.mul.Tensor  => first\n"
            "user of r0: aten.add.Tensor\n"
            "  user of r1: prims.convert_element_type.default\n"
            "    user of r2: aten.pow.Tensor_Scalar\n"
            "      user of r3: aten.mean.dim\n"
            "        user of r4: aten.add.Scalar or aten.add.Tensor\n"
            "          user of r5: aten.rsqrt.default\n"
            "            user of r6: aten.mul.Tensor\n"
            "              user of r7: prims.convert_element_type.default\n"
            "                user of r8: aten.mul.Tensor  => middle\n");
  EXPECT_EQ(set.max_registers(), 10U);
  EXPECT_EQ(set.max_slots(), 3U);
}

TEST(program_of_a_longer_pattern_shares_the_shorter_one) {
  Pattern quantised = functional_first();
  quantised.rule = "quantised";
  quantised.priority = 1;
  quantised.operations.push_back(call_of({"test.quant.default"}, {operation(8)}));
  const ProgramSet set = programs_of({functional_first(), quantised});
  EXPECT_EQ(set.nodes().size(), 9U);
  EXPECT_EQ(set.nodes()[7].accepts.size(), 1U);
  EXPECT_EQ(set.nodes()[8].accepts.size(), 1U);
  EXPECT_EQ(set.nodes()[8].parent, 7U);
  EXPECT_EQ(set.nodes()[8].depth, 9U);
}

TEST(program_shares_whatever_the_order_of_adding) {
  Pattern again = functional_first();
  const ProgramSet set = programs_of({functional_first(), again});
  EXPECT_EQ(set.nodes().size(), 8U);
  EXPECT_EQ(set.nodes()[7].accepts.size(), 1U);
  EXPECT_EQ(set.rules().size(), 1U);
}

TEST(program_goes_up_to_what_feeds_the_stream) {
  Pattern p;
  p.rule = "up";
  p.parameters = {Role::kReplicated};
  p.parameter_names = {"scale"};
  p.operations = {{},
                  call_of({"test.make_scale.default"}, {parameter(0)}),
                  call_of({"test.quant.default"}, {operation(0), operation(1)})};
  EXPECT_EQ(programs_of({p}).to_string(),
            "user of r0: test.quant.default\n"
            "  slot 0: test.make_scale.default  => up\n");
  p.operations[2].operands[1] = any();
  EXPECT_THROWS(UserError, programs_of({p}),
                "pattern 'up' has an operation that nothing else reads");
}

TEST(program_starts_from_the_operand_found_last) {
  const ProgramSet set = programs_of({functional_first()});
  const Step& scale = set.nodes()[5].step;  // mul(cast, rsqrt)
  EXPECT_EQ(scale.source, 5U);
  EXPECT(scale.checks[0].kind == CheckKind::kRegister);
  EXPECT_EQ(scale.checks[0].index, 1U);
  EXPECT(scale.commutative);
}

TEST(program_binds_once_and_compares_then) {
  Pattern p;
  p.rule = "twice";
  p.parameters = {Role::kReplicated, Role::kReplicated};
  p.parameter_names = {"a", "unused"};
  p.operations = {{}, call_of({"f"}, {operation(0), parameter(0), parameter(0)})};
  const ProgramSet set = programs_of({p});
  const auto& checks = set.nodes()[0].step.checks;
  EXPECT(checks[1].kind == CheckKind::kBind);
  EXPECT(checks[2].kind == CheckKind::kSame);
  EXPECT_EQ(checks[1].index, checks[2].index);
  EXPECT(set.nodes()[0].accepts[0].parameter_slots == (std::vector<uint32_t>{0, kNone}));
}

TEST(program_dispatches_by_operator) {
  Pattern other = ir_first();
  other.rule = "other";
  other.operations[1] = call_of({"test.a.default", "test.b.default"}, {operation(0)});
  const ProgramSet set = programs_of({ir_first(), ir_middle(), other});
  EXPECT_EQ(set.root_dispatch().size(), 1U);
  const auto& children = set.root_dispatch()[0].children;
  EXPECT_EQ(children.size(), 4U);
  EXPECT(std::is_sorted(children.begin(), children.end()));
  for (const auto& [target, node] : children) {
    const auto& forms = set.nodes()[node].step.forms;
    EXPECT(std::any_of(forms.begin(), forms.end(),
                       [&, wanted = target](const Form& one) { return one.target == wanted; }));
  }
}

TEST(program_variants_agree_on_their_parameters) {
  Pattern p = ir_middle();
  p.rule = "first";
  EXPECT_THROWS(UserError, programs_of({ir_first(), p}),
                "the variants of pattern 'first' differ in their parameters or priority");
  p = ir_first();
  p.priority = 3;
  EXPECT_THROWS(UserError, programs_of({ir_first(), p}),
                "the variants of pattern 'first' differ in their parameters or priority");
}

TEST(program_finds_the_last_dims_that_a_step_names) {
  const ProgramSet set = programs_of({functional_first()});
  const Step& mean = set.nodes()[2].step;
  const auto places = last_dim_locations(mean, intern_target("aten.mean.dim"));
  EXPECT_EQ(places.size(), 1U);
  EXPECT_EQ(places[0].position, 1);
  EXPECT(last_dim_locations(mean, intern_target("aten.sum.default")).empty());
}

uint64_t work_to_add(int patterns, bool same_operator) {
  const uint64_t before = work_done;
  ProgramSet set;
  for (int i = 0; i < patterns; ++i) {
    Pattern p = ir_first();
    p.rule = "rule " + std::to_string(i);
    if (same_operator) {
      p.operations[1].operands[2] = literals({integer(i)});
    } else {
      p.operations[1].forms[0].target = intern_target("test.op" + std::to_string(i));
    }
    set.add(p);
  }
  EXPECT_EQ(set.rules().size(), static_cast<size_t>(patterns));
  return work_done - before;
}

TEST(program_of_a_thousand_patterns_takes_linear_work) {
  EXPECT(work_to_add(1000, false) < 2000);
  EXPECT(work_to_add(1000, true) < 2000);
}

}  // namespace
}  // namespace spfast::testing
