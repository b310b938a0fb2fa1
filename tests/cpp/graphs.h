// Graphs for the tests: one site of each style, and stacks of them.
#pragma once

#include <string>
#include <vector>

#include "build.h"
#include "match/finder.h"
#include "rules.h"

namespace spfast::testing {

// Of a value where a test asks for no other: 4096 tokens of 512 features.
inline const Shape kShape{4096, 512};

// norm(x) of `weight`, decomposed as append_norm says, with its spelling open.
struct NormSpelling {
  Arg dim = list({-1});
  bool swapped = false;  // mul(rsqrt, x) and mul(weight, x)
  const char* add = "aten.add.Scalar";
  double epsilon = 1e-6;
};
inline Node norm(GraphBuilder& b, Node x, Node weight, const Shape& shape,
                 const NormSpelling& spelling = {}) {
  const Node f32 = b.call(kCast, {x, dtype("torch.float32")}, shape);
  const Node square = b.call("aten.pow.Tensor_Scalar", {f32, 2}, shape);
  Shape reduced = shape;
  reduced.back() = Size(1);
  const Node mean = b.call("aten.mean.dim", {square, spelling.dim, true}, reduced);
  const Node shifted = b.call(spelling.add, {mean, spelling.epsilon}, reduced);
  const Node scale = b.call("aten.rsqrt.default", {shifted}, reduced);
  const bool swap = spelling.swapped;
  const Node scaled = b.call("aten.mul.Tensor", {swap ? scale : f32, swap ? f32 : scale}, shape);
  const Node cast = b.call(kCast, {scaled, dtype("torch.bfloat16")}, shape);
  return b.call("aten.mul.Tensor", {swap ? weight : cast, swap ? cast : weight}, shape);
}

inline Node reduce(GraphBuilder& b, Node x, const Shape& shape, const char* group = "0") {
  const Node all_reduce = b.call(kReduce, {x, "sum", group}, shape);
  return b.call(kWait, {all_reduce}, shape);
}

// A decoder in few nodes: each block multiplies, reduces, adds to the residual and norms.
inline NodeTable functional_stack(int blocks, const Shape& shape, const char* group = "0") {
  GraphBuilder b;
  const Node weight = b.placeholder("weight", {shape.back()});
  const Node matrix = b.placeholder("matrix", {shape.back(), shape.back()});
  Node x = b.placeholder("x", shape);
  Node residual;
  for (int i = 0; i < blocks; ++i) {
    const Node product = b.call("aten.mm.default", {x, matrix}, shape);
    const Node stream = reduce(b, product, shape, group);
    residual = i == 0 ? stream : b.call("aten.add.Tensor", {residual, stream}, shape);
    x = norm(b, residual, weight, shape);
  }
  b.output({x});
  return b.finish();
}

inline MatchResult match(const NodeTable& table, const ProgramSet& programs) {
  const auto anchors = anchor_families();
  return find_matches(table, programs, anchors);
}

inline std::string rule_of(const MatchResult& result, const ProgramSet& programs, size_t anchor) {
  const AnchorReport& report = result.reports.at(anchor);
  if (report.match == kNone) return "-";
  return programs.rules()[result.matches[report.match].rule].name;
}

}  // namespace spfast::testing
