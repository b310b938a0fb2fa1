// Builds tables by hand, in few words.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "table/node_table.h"
#include "table/targets.h"

namespace spfast::testing {

struct Node {
  NodeId id = kNone;
};

// One argument, nested as deep as a test likes.
struct Arg {
  enum class Kind : uint8_t { kNone, kBool, kInt, kFloat, kText, kNode, kContainer };
  Kind kind = Kind::kNone;
  Tag tag = Tag::kList;  // of a container, and of text: string, dtype, device, const
  int64_t integer = 0;
  double number = 0.0;
  std::string text;
  NodeId node = kNone;
  std::vector<Arg> items;

  Arg(std::nullptr_t) {}
  Arg(bool value) : kind(Kind::kBool), integer(value ? 1 : 0) {}
  Arg(int value) : kind(Kind::kInt), integer(value) {}
  Arg(int64_t value) : kind(Kind::kInt), integer(value) {}
  Arg(double value) : kind(Kind::kFloat), number(value) {}
  Arg(const char* value) : kind(Kind::kText), tag(Tag::kString), text(value) {}
  Arg(std::string value) : kind(Kind::kText), tag(Tag::kString), text(std::move(value)) {}
  Arg(Node value) : kind(Kind::kNode), node(value.id) {}
};

inline Arg list(std::vector<Arg> items, Tag tag = Tag::kList) {
  Arg arg(nullptr);
  arg.kind = Arg::Kind::kContainer;
  arg.tag = tag;
  arg.items = std::move(items);
  return arg;
}
// How deep the tests nest. Arg itself is copied and freed recursively, which the sanitizers' wide
// stack frames do not bear at the full depth; the core has no such limit.
#ifdef __SANITIZE_ADDRESS__
inline constexpr int kDeep = 500;
#else
inline constexpr int kDeep = 10000;
#endif

// One value in lists as deep as `depth`, without a copy for each of them.
inline Arg nested(Arg inner, int depth) {
  for (int i = 0; i < depth; ++i) {
    std::vector<Arg> items;
    items.push_back(std::move(inner));
    inner = list(std::move(items));
  }
  return inner;
}
inline Arg tuple(std::vector<Arg> items) { return list(std::move(items), Tag::kTuple); }
inline Arg dtype(const char* name) {
  Arg arg(name);
  arg.tag = Tag::kDtype;
  return arg;
}

// A size: a number, or a symbol.
struct Size {
  int64_t number = 0;
  std::string symbol;
  Size(int value) : number(value) {}
  Size(int64_t value) : number(value) {}
  Size(const char* value) : symbol(value) {}
};
using Shape = std::vector<Size>;

class GraphBuilder {
 public:
  NodeTable table;

  Node placeholder(const std::string& name, const Shape& shape = {}) {
    const Node node = add(Op::kPlaceholder, "placeholder", name, {}, {});
    if (!shape.empty()) set_shape(node, shape);
    return node;
  }
  Node call(const char* target, const std::vector<Arg>& args, const Shape& shape = {},
            const std::vector<std::pair<std::string, Arg>>& kwargs = {}) {
    const Node node = add(Op::kCallFunction, target, {}, args, kwargs);
    if (!shape.empty()) set_shape(node, shape);
    return node;
  }
  Node output(const std::vector<Arg>& values) {
    return add(Op::kOutput, "output", "output", {tuple(values)}, {});
  }
  void set_shape(Node node, const Shape& shape, const char* type = "torch.bfloat16") {
    table.set_meta(node.id, table.add_meta(tensor_meta(shape, type)));
  }
  // A tuple of tensors.
  void set_parts(Node node, const std::vector<Shape>& shapes) {
    std::vector<uint32_t> ids;
    for (const Shape& shape : shapes) ids.push_back(table.add_meta(tensor_meta(shape)));
    Meta meta;
    meta.kind = MetaKind::kTuple;
    meta.parts = table.add_parts(ids);
    table.set_meta(node.id, table.add_meta(meta));
  }
  void set_missing(Node node) {
    Meta meta;
    meta.kind = MetaKind::kMissing;
    table.set_meta(node.id, table.add_meta(meta));
  }
  void name(Node node, const std::string& text) {
    table.set_name(node.id, table.intern_string(text));
  }
  NodeTable finish() {
    table.finish();
    return std::move(table);
  }

  Meta tensor_meta(const Shape& shape, const char* type = "torch.bfloat16") {
    Meta meta;
    meta.kind = MetaKind::kTensor;
    meta.dtype = table.intern_string(type);
    meta.device = table.intern_string("cuda:0");
    std::vector<Dim> dims;
    int64_t rows = 1;
    std::string symbols;
    for (size_t i = 0; i < shape.size(); ++i) {
      dims.push_back(dim(shape[i]));
      if (i + 1 == shape.size()) break;
      if (shape[i].symbol.empty()) {
        rows *= shape[i].number;
      } else {
        symbols += (symbols.empty() ? "" : "*") + shape[i].symbol;
      }
    }
    if (!symbols.empty() && rows != 1) symbols = std::to_string(rows) + "*" + symbols;
    meta.tokens = symbols.empty() ? Dim::of(rows) : Dim::expr(table.intern_expr(symbols));
    meta.dims = table.add_dims(dims);
    return meta;
  }

 private:
  Dim dim(const Size& size) {
    return size.symbol.empty() ? Dim::of(size.number) : Dim::expr(table.intern_expr(size.symbol));
  }

  Node add(Op op, const char* target, const std::string& name, const std::vector<Arg>& args,
           const std::vector<std::pair<std::string, Arg>>& kwargs) {
    const TargetId id = intern_target(target);
    const NodeId node = table.add_node(op, id, target_flags(id));
    if (!name.empty()) table.set_name(node, table.intern_string(name));
    table.begin_operands(static_cast<uint32_t>(args.size()), static_cast<uint32_t>(kwargs.size()));
    uint32_t slot = table.operand_begin(node);
    for (const Arg& arg : args) put(slot++, arg);
    for (const auto& [key, value] : kwargs) {
      table.set_value(slot++, table.make_string(Tag::kString, key));
      put(slot++, value);
    }
    // Containers wait on a list: a test nests them deeper than the stack is.
    for (size_t i = 0; i < pending_.size(); ++i) {
      const auto [begin, items] = pending_[i];
      uint32_t at = begin;
      for (const Arg& item : *items) put(at++, item);
    }
    pending_.clear();
    return {node};
  }

  void put(uint32_t slot, const Arg& arg) { table.set_value(slot, encode(arg)); }

  Argument encode(const Arg& arg) {
    switch (arg.kind) {
      case Arg::Kind::kNone:
        return {Tag::kNoneType, 0};
      case Arg::Kind::kBool:
        return {Tag::kBool, static_cast<uint32_t>(arg.integer)};
      case Arg::Kind::kInt:
        return table.make_int(arg.integer);
      case Arg::Kind::kFloat:
        return table.make_float(arg.number);
      case Arg::Kind::kText:
        return table.make_string(arg.tag, arg.text);
      case Arg::Kind::kNode:
        return {Tag::kNode, arg.node};
      case Arg::Kind::kContainer: {
        const auto count = static_cast<uint32_t>(arg.items.size());
        const uint32_t begin = table.reserve_values(count);
        pending_.emplace_back(begin, &arg.items);
        return table.make_container(arg.tag, begin, count);
      }
    }
    return {};
  }

  std::vector<std::pair<uint32_t, const std::vector<Arg>*>> pending_;
};

}  // namespace spfast::testing
