// Patterns and families of collectives for the tests, in the two styles that graphs come in: fused
// norms (vllm_ir) and norms decomposed to aten behind functional collectives.
#pragma once

#include <string>
#include <vector>

#include "pattern/program.h"
#include "rewrite/collectives.h"
#include "rewrite/rowwise_rules.h"
#include "table/targets.h"

namespace spfast::testing {

inline Operand operation(uint32_t index) { return {OperandKind::kOperation, index, {}}; }
inline Operand parameter(uint32_t index) { return {OperandKind::kParameter, index, {}}; }
inline Operand any() { return {}; }
inline Literal integer(int64_t value) {
  Literal literal;
  literal.tag = Tag::kInt;
  literal.integer = value;
  literal.number = static_cast<double>(value);
  return literal;
}
inline Literal number(double value) {
  Literal literal;
  literal.tag = Tag::kFloat;
  literal.number = value;
  return literal;
}
inline Literal truth(bool value) {
  Literal literal;
  literal.tag = Tag::kBool;
  literal.integer = value ? 1 : 0;
  return literal;
}
inline Literal words(Tag tag, const char* text) {
  Literal literal;
  literal.tag = tag;
  literal.text = text;
  return literal;
}
inline Literal last_dim() {
  Literal literal;
  literal.tag = Tag::kInt;
  literal.last_dim = true;
  return literal;
}
inline Operand literals(std::vector<Literal> values) {
  return {OperandKind::kLiteral, 0, std::move(values)};
}

// Operands at positions 0, 1, ...
inline Form form(const char* target, size_t operands) {
  Form out;
  out.target = intern_target(target);
  for (size_t i = 0; i < operands; ++i) out.where.push_back({static_cast<int32_t>(i), {}, -1});
  return out;
}
inline Operation call_of(std::vector<const char*> targets, std::vector<Operand> operands,
                         bool commutative = false) {
  Operation out;
  for (const char* target : targets) out.forms.push_back(form(target, operands.size()));
  out.operands = std::move(operands);
  out.commutative = commutative;
  return out;
}

inline constexpr const char* kIrReduce = "vllm.all_reduce.default";
inline constexpr const char* kIrNorm = "vllm_ir.rms_norm.default";
inline constexpr const char* kIrAddNorm = "vllm_ir.fused_add_rms_norm.default";
inline constexpr const char* kReduce = "_c10d_functional.all_reduce.default";
inline constexpr const char* kWait = "_c10d_functional.wait_tensor.default";
inline constexpr const char* kCast = "prims.convert_element_type.default";

// rms_norm(x, weight, epsilon) and fused_add_rms_norm(x, residual, weight, epsilon).
inline Pattern ir_first() {
  Pattern p;
  p.rule = "first";
  p.parameters = {Role::kReplicated, Role::kReplicated};
  p.parameter_names = {"weight", "epsilon"};
  p.operations = {{}, call_of({kIrNorm}, {operation(0), parameter(0), parameter(1)})};
  return p;
}
inline Pattern ir_middle() {
  Pattern p;
  p.rule = "middle";
  p.parameters = {Role::kRows, Role::kReplicated, Role::kReplicated};
  p.parameter_names = {"residual", "weight", "epsilon"};
  p.operations = {{},
                  call_of({kIrAddNorm}, {operation(0), parameter(0), parameter(1), parameter(2)})};
  return p;
}

// The decomposed norm of operation `x`, whose number of operations so far is `at`.
inline void append_norm(Pattern& p, uint32_t x, uint32_t weight, uint32_t epsilon) {
  const auto at = static_cast<uint32_t>(p.operations.size());
  const auto f32 = literals({words(Tag::kDtype, "torch.float32")});
  const auto bf16 = literals({words(Tag::kDtype, "torch.bfloat16")});
  p.operations.push_back(call_of({kCast}, {operation(x), f32}));  // at
  p.operations.push_back(
      call_of({"aten.pow.Tensor_Scalar"}, {operation(at), literals({integer(2)})}));  // at + 1
  p.operations.push_back(call_of({"aten.mean.dim"}, {operation(at + 1), literals({last_dim()}),
                                                     literals({truth(true)})}));  // at + 2
  p.operations.push_back(call_of({"aten.add.Scalar", "aten.add.Tensor"},
                                 {operation(at + 2), parameter(epsilon)}, true));  // at + 3
  p.operations.push_back(call_of({"aten.rsqrt.default"}, {operation(at + 3)}));    // at + 4
  p.operations.push_back(
      call_of({"aten.mul.Tensor"}, {operation(at), operation(at + 4)}, true));  // at + 5
  p.operations.push_back(call_of({kCast}, {operation(at + 5), bf16}));          // at + 6
  p.operations.push_back(
      call_of({"aten.mul.Tensor"}, {operation(at + 6), parameter(weight)}, true));  // at + 7
}

inline Pattern functional_first() {
  Pattern p;
  p.rule = "first";
  p.parameters = {Role::kReplicated, Role::kReplicated};
  p.parameter_names = {"weight", "epsilon"};
  p.operations = {{}};
  append_norm(p, 0, 0, 1);
  return p;
}
inline Pattern functional_middle() {
  Pattern p;
  p.rule = "middle";
  p.parameters = {Role::kRows, Role::kReplicated, Role::kReplicated};
  p.parameter_names = {"residual", "weight", "epsilon"};
  p.operations = {{}, call_of({"aten.add.Tensor"}, {operation(0), parameter(0)}, true)};
  append_norm(p, 1, 1, 2);
  return p;
}

inline std::vector<CollectiveFamily> families() {
  using Kind = CollectiveArg::Kind;
  CollectiveFamily ir;
  ir.name = "vllm";
  ir.match = {0, intern_target(kIrReduce), kNone, -1, 1};
  ir.reduce_scatter = intern_target("vllm.reduce_scatter.default");
  ir.reduce_scatter_args = {{Kind::kInput}, {Kind::kInt, 0}, {Kind::kWorldSize}, {Kind::kGroup}};
  ir.all_gather = intern_target("vllm.all_gather.default");
  ir.all_gather_args = ir.reduce_scatter_args;
  CollectiveFamily functional;
  functional.name = "functional";
  functional.match = {1, intern_target(kReduce), intern_target(kWait), 1, 2};
  functional.reduce_scatter = intern_target("_c10d_functional.reduce_scatter_tensor.default");
  functional.reduce_scatter_args = {
      {Kind::kInput}, {Kind::kReduceOp}, {Kind::kWorldSize}, {Kind::kGroup}};
  functional.all_gather = intern_target("_c10d_functional.all_gather_into_tensor.default");
  functional.all_gather_args = {{Kind::kInput}, {Kind::kWorldSize}, {Kind::kGroup}};
  return {ir, functional};
}

// Operators that treat every token alone, at least one of each family.
inline RowRules row_rules() {
  using Family = RowRule::Family;
  RowRules rules;
  const auto add = [&](const char* target, Family family, int32_t position = 1, int64_t dim = 0) {
    RowRule rule;
    rule.family = family;
    rule.position = position;
    rule.default_dim = dim;
    rules.add(intern_target(target), rule);
  };
  for (const char* target :
       {"aten.add.Tensor", "aten.add.Scalar", "aten.mul.Tensor", "aten.pow.Tensor_Scalar",
        "aten.relu.default", "aten.rsqrt.default", "aten.alias.default", kCast}) {
    add(target, Family::kPointwise);
  }
  add("aten.mean.dim", Family::kReduce);
  add("aten._softmax.default", Family::kAlong);
  add("aten.slice.Tensor", Family::kAlong);
  add("aten.split.Tensor", Family::kAlong, 2);
  add("aten.topk.default", Family::kAlong, 2, -1);
  add("aten.cat.default", Family::kAlong);
  add("aten._fused_rms_norm.default", Family::kNorm);
  add("aten.view.default", Family::kView);
  add("aten.reshape.default", Family::kView);
  add("aten.unsqueeze.default", Family::kUnsqueeze);
  add("aten.squeeze.dim", Family::kSqueeze);
  add("aten.expand.default", Family::kExpand);
  RowRule norm;
  norm.family = Family::kRows;
  norm.rows = {0};
  rules.add(intern_target(kIrNorm), norm);
  norm.rows = {0, 1};
  rules.add(intern_target(kIrAddNorm), norm);
  RowRule buffer;
  buffer.family = Family::kRows;
  buffer.keywords = {"x"};
  buffer.buffers = {"out"};
  rules.add(intern_target("test.into_buffer.default"), buffer);
  return rules;
}

inline std::vector<AllReduceFamily> anchor_families() {
  std::vector<AllReduceFamily> out;
  for (const CollectiveFamily& family : families()) out.push_back(family.match);
  return out;
}

inline ProgramSet programs_of(const std::vector<Pattern>& patterns) {
  ProgramSet set;
  for (const Pattern& pattern : patterns) set.add(pattern);
  return set;
}
inline ProgramSet all_programs() {
  return programs_of({ir_first(), ir_middle(), functional_first(), functional_middle()});
}

}  // namespace spfast::testing
