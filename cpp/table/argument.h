// table/: the NodeTable, a graph as flat arrays. Depends on base/ alone.
//
// An Argument is one operand or literal: a tag and a 32-bit payload. Small things live in the
// payload, larger ones in the table's pools, so that an operand costs 8 bytes and equality of
// interned literals is equality of integers.
#pragma once

#include <cstdint>
#include <limits>

namespace spfast {

using NodeId = uint32_t;
using TargetId = uint32_t;
inline constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();

enum class Tag : uint8_t {
  kAbsent,    // no operand there
  kNoneType,  // Python's None
  kBool,      // payload 0 or 1
  kInt,       // payload: index into ints
  kFloat,     // payload: index into floats
  kString,    // payload: string id
  kNode,      // payload: node id
  kDtype,     // payload: string id, such as "torch.float32"
  kDevice,    // payload: string id, such as "cuda:0"
  kConst,     // payload: string id; a layout or memory format
  kTarget,    // payload: target id; an operator passed as an argument
  kList,      // payload: span id
  kTuple,     // payload: span id
  kDict,      // payload: span id; keys (kString) and values alternate
  kSlice,     // payload: span id of three values
  kExpr,      // payload: expression id; a raw SymInt
  kOpaque,    // payload: string id of the repr; cannot be decoded
};
inline constexpr uint8_t kTagCount = static_cast<uint8_t>(Tag::kOpaque) + 1;

[[nodiscard]] constexpr bool is_container(Tag tag) {
  return tag == Tag::kList || tag == Tag::kTuple || tag == Tag::kDict || tag == Tag::kSlice;
}

[[nodiscard]] constexpr bool is_sequence(Tag tag) {
  return tag == Tag::kList || tag == Tag::kTuple;
}

// Two ids as one key of a hash map.
[[nodiscard]] constexpr uint64_t pair_key(uint32_t first, uint32_t second) {
  return (uint64_t{first} << 32) | second;
}

struct Argument {
  Tag tag = Tag::kAbsent;
  uint32_t payload = 0;
  [[nodiscard]] bool is_node() const { return tag == Tag::kNode; }
  friend bool operator==(const Argument&, const Argument&) = default;
};

// An argument as the key of a hash map.
[[nodiscard]] constexpr uint64_t argument_key(Argument value) {
  return pair_key(static_cast<uint32_t>(value.tag), value.payload);
}

enum class Op : uint8_t {
  kPlaceholder,
  kGetAttr,
  kCallFunction,
  kCallModule,
  kCallMethod,
  kOutput,
};
inline constexpr uint8_t kOpCount = static_cast<uint8_t>(Op::kOutput) + 1;

// One size of a tensor: a plain integer, or an interned symbolic expression. Both are stored in
// 64 bits; expressions are tagged by a bit that no size reaches.
struct Dim {
  int64_t raw = 0;
  static constexpr int64_t kExprBit = int64_t{1} << 62;
  [[nodiscard]] static Dim of(int64_t size) { return Dim{size}; }
  [[nodiscard]] static Dim expr(uint32_t id) { return Dim{kExprBit | id}; }
  [[nodiscard]] bool is_expr() const { return (raw & kExprBit) != 0 && raw > 0; }
  [[nodiscard]] uint32_t expr_id() const { return static_cast<uint32_t>(raw); }
  friend bool operator==(const Dim&, const Dim&) = default;
};

// What meta["val"] of a node was.
enum class MetaKind : uint8_t {
  kUnknown,  // not read yet
  kMissing,  // there is none, or it is nothing that we can describe
  kTensor,
  kTuple,  // of tensors or Nones; getitem nodes carry the parts
  kSym,    // a SymInt, or a plain number
};
inline constexpr uint8_t kMetaKindCount = static_cast<uint8_t>(MetaKind::kSym) + 1;

}  // namespace spfast
