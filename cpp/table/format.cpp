// How values, dims and nodes read in messages.
#include <charconv>
#include <string>
#include <vector>

#include "base/check.h"
#include "table/node_table.h"
#include "table/targets.h"

namespace spfast {
namespace {

struct Brackets {
  const char* open;
  const char* close;
};

Brackets brackets_of(Tag tag) {
  switch (tag) {
    case Tag::kTuple:
      return {"(", ")"};
    case Tag::kDict:
      return {"{", "}"};
    case Tag::kSlice:
      return {"slice(", ")"};
    default:
      return {"[", "]"};
  }
}

}  // namespace

std::string format_float(double value) {
  char buffer[32];
  const auto result = std::to_chars(buffer, buffer + sizeof buffer, value);
  std::string text(buffer, result.ptr);
  if (text.find_first_not_of("-0123456789") == std::string::npos) text += ".0";
  return text;
}

std::string NodeTable::format_value(Argument value) const {
  // Containers nest as deep as a user likes: an explicit stack, and a bound on what is shown.
  constexpr size_t kMaxLength = 160;
  struct Frame {
    Argument container;
    size_t next;
  };
  std::string out;
  std::vector<Frame> stack;
  const auto put = [&](Argument leaf) {
    switch (leaf.tag) {
      case Tag::kAbsent:
        out += "nothing";
        break;
      case Tag::kNoneType:
        out += "None";
        break;
      case Tag::kBool:
        out += leaf.payload != 0 ? "True" : "False";
        break;
      case Tag::kInt:
        out += std::to_string(ints_.at(leaf.payload));
        break;
      case Tag::kFloat:
        out += format_float(floats_.at(leaf.payload));
        break;
      case Tag::kString:
        out.append("'").append(strings_.at(leaf.payload)).append("'");
        break;
      case Tag::kNode:
        out += "%" + node_label(leaf.payload);
        break;
      case Tag::kDtype:
      case Tag::kDevice:
      case Tag::kConst:
      case Tag::kOpaque:
        out += strings_.at(leaf.payload);
        break;
      case Tag::kTarget:
        out += target_name(leaf.payload);
        break;
      case Tag::kExpr:
        out += exprs_.at(leaf.payload);
        break;
      default:
        out += brackets_of(leaf.tag).open;
        stack.push_back({leaf, 0});
        break;
    }
  };
  put(value);
  while (!stack.empty()) {
    const size_t top = stack.size() - 1;
    const Argument container = stack[top].container;
    const auto contents = items(container);
    const size_t i = stack[top].next;
    if (i == contents.size() || out.size() > kMaxLength) {
      if (i != contents.size()) out += " ...";
      out += brackets_of(container.tag).close;
      stack.pop_back();
      continue;
    }
    if (i > 0) out += container.tag == Tag::kDict && i % 2 == 1 ? ": " : ", ";
    stack[top].next = i + 1;
    put(contents[i]);
  }
  return out;
}

std::string NodeTable::node_label(NodeId node) const {
  if (names_[node] != kNone) return std::string(strings_.at(names_[node]));
  return std::to_string(node);
}

std::string NodeTable::format_dims(std::span<const Dim> dims) const {
  std::string out = "[";
  for (const Dim dim : dims) {
    if (out.size() > 1) out += ", ";
    if (dim.is_expr()) {
      out += exprs_.at(dim.expr_id());
    } else {
      out += std::to_string(dim.raw);
    }
  }
  return out + "]";
}

}  // namespace spfast
