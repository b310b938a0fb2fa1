// Structure out of bytes: fuzzers hand us a string, and we read a table, patterns and a plan's
// surroundings from it. Every string means something, and small changes mean small changes.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "graphs.h"

namespace spfast::testing {

class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  [[nodiscard]] bool empty() const { return at_ >= size_; }
  // Zero behind the end.
  uint8_t next() { return empty() ? 0 : data_[at_++]; }
  uint32_t below(uint32_t limit) { return limit == 0 ? 0 : next() % limit; }
  bool flag() { return (next() & 1U) != 0; }

 private:
  const uint8_t* data_;
  size_t size_;
  size_t at_ = 0;
};

// Few values, so that equal ones meet.
inline const std::vector<const char*>& fuzz_targets() {
  static const std::vector<const char*> all = {
      kIrReduce,
      kIrNorm,
      kIrAddNorm,
      kReduce,
      kWait,
      kCast,
      "aten.add.Tensor",
      "aten.add.Scalar",
      "aten.mul.Tensor",
      "aten.pow.Tensor_Scalar",
      "aten.mean.dim",
      "aten.rsqrt.default",
      "aten.view.default",
      "aten.reshape.default",
      "aten.clone.default",
      "aten.alias.default",
      "aten.copy.default",
      "aten.slice.Tensor",
      "_operator.getitem",
      "aten.copy_.default",
      "aten.sym_size.int",
      "aten.empty.memory_format",
      "aten.empty_like.default",
      "aten.relu.default",
      "_operator.mul",
      "test.buffer.default",
  };
  return all;
}

// What the row-wise recogniser knows beside: operators of each family, and sizes for them.
inline const std::vector<const char*>& row_targets() {
  static const std::vector<const char*> all = [] {
    std::vector<const char*> out = fuzz_targets();
    for (const char* target :
         {"aten._softmax.default", "aten.split.Tensor", "aten.topk.default", "aten.cat.default",
          "aten._fused_rms_norm.default", "aten.unsqueeze.default", "aten.squeeze.dim",
          "aten.expand.default", "test.into_buffer.default"}) {
      out.push_back(target);
    }
    return out;
  }();
  return all;
}

inline Shape row_shape(Bytes& in) {
  static constexpr int64_t kHuge = int64_t{1} << 59;
  static const std::vector<Shape> all = {
      {8, 4},    {8, 4},          {8, 1},    {8, 2}, {8, 4, 1},  {8, 2, 2},
      {8, 1, 4}, {2, 4, 4},       {"s0", 4}, {8},    {8, kHuge}, {8, kHuge, 32},
      {1, 8, 4}, {"s0", "s1", 4}, {4},       {},
  };
  return all[in.below(static_cast<uint32_t>(all.size()))];
}

inline Shape fuzz_shape(Bytes& in) {
  static const std::vector<Shape> all = {
      {},     {8, 4}, {2, 4, 4}, {"s0", 4}, {2, "s0", 4}, {"s0", "s1", 4},
      {4},    {8, 1}, {16, 2},   {8, 8},    {1, 4},       {7, 4},
      {0, 4}, {4, 8}, {32},      {8, "s0"}, {8, 4},       {8, 4},
  };
  return all[in.below(static_cast<uint32_t>(all.size()))];
}

inline Arg fuzz_literal(Bytes& in) {
  switch (in.below(14)) {
    case 0:
      return nullptr;
    case 1:
      return true;
    case 2:
      return 2;
    case 3:
      return -1;
    case 4:
      return 0;
    case 5:
      return 1e-6;
    case 6:
      return "sum";
    case 7:
      return "g";
    case 8:
      return "h";
    case 9:
      return dtype("torch.float32");
    case 10:
      return dtype("torch.bfloat16");
    case 11:
      return 4;
    case 12:
      return std::numeric_limits<int64_t>::max();
    default:
      return list({-1});
  }
}

class TableFuzzer {
 public:
  TableFuzzer(Bytes& in, uint32_t max_nodes, bool row_wise = false)
      : in_(in), max_nodes_(max_nodes), row_wise_(row_wise) {}

  NodeTable run() {
    while (!in_.empty() && b_.table.size() < max_nodes_) add();
    if (!nodes_.empty()) {
      std::vector<Arg> outputs;
      for (uint32_t i = in_.below(4); i-- > 0;) outputs.emplace_back(node());
      outputs.emplace_back(nodes_.back());
      b_.output(outputs);
    }
    return b_.finish();
  }

 private:
  // Mostly one of the last nodes: that is what makes chains.
  Node node() {
    if (nodes_.empty()) nodes_.push_back(b_.placeholder("x", {8, 4}));
    const uint8_t byte = in_.next();
    const size_t back = byte < 224 ? byte % 8 : byte;
    return nodes_[nodes_.size() - 1 - back % nodes_.size()];
  }

  Arg arg(int depth) {
    const uint8_t kind = in_.next() % 8;
    if (kind < 5) return node();
    if (kind < 7 || depth > 3) return fuzz_literal(in_);
    std::vector<Arg> items;
    for (uint32_t i = in_.below(4); i-- > 0;) items.push_back(arg(depth + 1));
    static constexpr Tag kTags[] = {Tag::kList, Tag::kTuple, Tag::kDict, Tag::kSlice};
    return list(std::move(items), kTags[in_.below(4)]);
  }

  void add() {
    switch (in_.below(8)) {
      case 0:
        nodes_.push_back(b_.placeholder("p", draw_shape()));
        return;
      case 1:
        nodes_.push_back(reduced());
        return;
      case 2:
        nodes_.push_back(normed());
        return;
      case 3:
        nodes_.push_back(noise());
        return;
      default:
        nodes_.push_back(anything());
        return;
    }
  }

  Shape draw_shape() { return row_wise_ ? row_shape(in_) : fuzz_shape(in_); }

  Node reduced() {
    const Node x = node();
    const Shape shape = draw_shape();
    const char* group = in_.flag() ? "g" : "h";
    if (in_.flag()) return reduce(b_, x, shape, group);
    return b_.call(kIrReduce, {x, group}, shape);
  }

  Node normed() {
    const Node x = node();
    const Shape shape = draw_shape();
    const Node weight = in_.flag() ? b_.placeholder("w", {4}) : node();
    const uint32_t kind = in_.below(4);
    if (kind == 0) return b_.call(kIrNorm, {x, weight, 1e-6}, shape);
    if (kind == 1) {
      const Node pair = b_.call(kIrAddNorm, {x, node(), weight, 1e-6});
      if (row_wise_ && in_.flag()) b_.set_parts(pair, {shape, shape});
      const Node first = b_.call("_operator.getitem", {pair, 0}, shape);
      nodes_.push_back(b_.call("_operator.getitem", {pair, 1}, shape));
      return first;
    }
    Node sum = x;
    if (kind == 2) {
      const Node residual = node();
      const bool swapped = in_.flag();
      sum = b_.call("aten.add.Tensor", {swapped ? x : residual, swapped ? residual : x}, shape);
      nodes_.push_back(sum);
    }
    NormSpelling spelling;
    spelling.swapped = in_.flag();
    if (in_.flag() && !shape.empty()) {
      spelling.dim = list({static_cast<int>(shape.size()) - 1});
    }
    return norm(b_, sum, weight, shape.empty() ? Shape{8, 4} : shape, spelling);
  }

  Node noise() {
    const Node x = node();
    const Shape shape = draw_shape();
    switch (in_.below(4)) {
      case 0:
        return b_.call("aten.alias.default", {x}, shape);
      case 1:
        return b_.call("aten.copy.default", {node(), x}, shape);
      default: {
        std::vector<Arg> sizes;
        for (const Size& size : shape) {
          sizes.push_back(size.symbol.empty() ? Arg(size.number) : Arg(-1));
        }
        return b_.call("aten.view.default", {x, list(std::move(sizes))}, shape);
      }
    }
  }

  Node anything() {
    const auto& targets = row_wise_ ? row_targets() : fuzz_targets();
    const char* target = targets[in_.below(static_cast<uint32_t>(targets.size()))];
    std::vector<Arg> args;
    for (uint32_t i = in_.below(5); i-- > 0;) args.push_back(arg(0));
    std::vector<std::pair<std::string, Arg>> kwargs;
    static constexpr const char* kKeys[] = {"alpha", "x", "group_name", "dtype", "out", "dim"};
    for (uint32_t i = in_.below(8); i > 5; --i) {
      const char* key = kKeys[in_.below(row_wise_ ? 6 : 4)];
      kwargs.emplace_back(key, arg(0));
    }
    const Node made = b_.call(target, args, draw_shape(), kwargs);
    if (in_.below(32) == 31) b_.set_missing(made);
    if (row_wise_ && in_.below(8) == 7) b_.set_parts(made, {draw_shape(), draw_shape()});
    return made;
  }

  Bytes& in_;
  const uint32_t max_nodes_;
  const bool row_wise_;
  GraphBuilder b_;
  std::vector<Node> nodes_;
};

// A pattern, more often well formed than not.
class PatternFuzzer {
 public:
  explicit PatternFuzzer(Bytes& in) : in_(in) {}

  Pattern run() {
    Pattern p;
    p.rule = std::string("rule ") + static_cast<char>('a' + in_.below(3));
    p.priority = static_cast<int32_t>(in_.below(2));
    const uint32_t parameters = in_.below(3);
    for (uint32_t i = 0; i < parameters; ++i) {
      p.parameters.push_back(static_cast<Role>(in_.below(3)));
      p.parameter_names.push_back("p" + std::to_string(i));
    }
    p.operations.emplace_back();
    const uint32_t operations = 1 + in_.below(5);
    for (uint32_t i = 1; i <= operations; ++i) p.operations.push_back(operation(i, parameters));
    return p;
  }

 private:
  Operation operation(uint32_t at, uint32_t parameters) {
    Operation out;
    const uint32_t operands = 1 + in_.below(3);
    out.operands.push_back({OperandKind::kOperation, at - 1 - in_.below(at), {}});
    for (uint32_t i = 1; i < operands; ++i) out.operands.push_back(operand(at, parameters));
    const auto& targets = fuzz_targets();
    for (uint32_t i = 1 + in_.below(2); i-- > 0;) {
      Form one = form(targets[in_.below(static_cast<uint32_t>(targets.size()))], operands);
      const uint32_t kind = in_.below(8);
      if (kind == 0) one.where[0].keyword = "x";
      if (kind == 1) one.where[in_.below(operands)] = {-1, "alpha", -1};
      if (kind == 2) one.where[in_.below(operands)].item = static_cast<int32_t>(in_.below(3));
      if (kind == 3) {
        one.fixed.push_back({{static_cast<int32_t>(operands), "dtype", -1}, literal(), in_.flag()});
      }
      if (kind == 4 && in_.below(8) == 7) one.where.pop_back();
      out.forms.push_back(std::move(one));
    }
    out.commutative = in_.flag();
    return out;
  }

  Operand operand(uint32_t at, uint32_t parameters) {
    switch (in_.below(6)) {
      case 0:
      case 1:
        return {OperandKind::kOperation, in_.below(at), {}};
      case 2:
        return {OperandKind::kParameter, in_.below(parameters + (in_.below(16) == 15 ? 1 : 0)), {}};
      case 3:
        return {OperandKind::kLiteral, 0, {literal()}};
      case 4:
        return {OperandKind::kLiteral, 0, {literal(), literal()}};
      default:
        return {};
    }
  }

  Literal literal() {
    switch (in_.below(7)) {
      case 0:
        return {};
      case 1:
        return integer(2);
      case 2:
        return number(1e-6);
      case 3:
        return words(Tag::kDtype, "torch.float32");
      case 4:
        return last_dim();
      case 5:
        return truth(true);
      default: {
        Literal items;
        items.tag = Tag::kList;
        items.items = {integer(-1)};
        return items;
      }
    }
  }

  Bytes& in_;
};

}  // namespace spfast::testing
