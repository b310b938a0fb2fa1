// A graph as flat arrays: what encode makes, match and plan read, files carry.
//
// Nodes are numbered in graph order. The operands of node i, with everything nested in them, occupy
// one contiguous range of the value pool: first the positional arguments, then the keyword
// arguments as (key, value) pairs, then the contents of containers. So the edges of the graph are a
// linear scan, and a nested argument costs no pointer.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/interner.h"
#include "table/argument.h"
#include "table/targets.h"

namespace spfast {

struct Span {
  uint32_t begin = 0;
  uint32_t count = 0;
  friend bool operator==(const Span&, const Span&) = default;
};

// What is known of one value: a tensor's dtype, device, sizes and strides, or a tuple of such, or a
// symbolic number (one dim).
struct Meta {
  MetaKind kind = MetaKind::kUnknown;
  uint32_t dtype = kNone;   // string id
  uint32_t device = kNone;  // string id
  Span dims;                // into dim_pool()
  Dim tokens;               // the product of all dims but the last: rows, if every dim is flattened
  Span strides;             // into dim_pool(); empty: contiguous
  Span parts;               // of a tuple: into part_pool(), ids of metas
};

class NodeTable {
 public:
  // --- building -------------------------------------------------------------------------------
  NodeId add_node(Op op, TargetId target, uint8_t flags, uint32_t name = kNone);
  // Operands of the last added node: reserve top-level slots, then fill containers in any order.
  void begin_operands(uint32_t n_args, uint32_t n_kwargs);
  [[nodiscard]] uint32_t operand_begin(NodeId node) const { return begins_[node]; }
  [[nodiscard]] uint32_t reserve_values(uint32_t count);
  void set_value(uint32_t index, Argument value) { values_[index] = value; }
  [[nodiscard]] Argument make_container(Tag tag, uint32_t begin, uint32_t count);
  [[nodiscard]] Argument make_int(int64_t value);
  [[nodiscard]] Argument make_float(double value);
  [[nodiscard]] Argument make_string(Tag tag, std::string_view text) {
    return {tag, strings_.intern(text)};
  }
  [[nodiscard]] uint32_t intern_string(std::string_view text) { return strings_.intern(text); }
  [[nodiscard]] uint32_t intern_expr(std::string_view text);
  void set_name(NodeId node, uint32_t name) { names_[node] = name; }
  // Equal metas share an id. If the meta is known already, the dims and parts that were just added
  // for it are dropped.
  [[nodiscard]] uint32_t add_meta(const Meta& meta);
  void set_meta(NodeId node, uint32_t meta) { meta_of_[node] = meta; }
  [[nodiscard]] Span add_dims(std::span<const Dim> dims);
  [[nodiscard]] Span add_parts(std::span<const uint32_t> parts);
  void add_symbol(std::string_view name, int64_t hint);
  void reserve(uint32_t nodes);
  // Call once when all nodes are there: builds the users and checks that operands come first.
  void finish();
  // Gives back what the vectors hold in reserve: for a table that is kept.
  void shrink_to_fit();

  // --- reading --------------------------------------------------------------------------------
  [[nodiscard]] uint32_t size() const { return static_cast<uint32_t>(ops_.size()); }
  [[nodiscard]] Op op(NodeId node) const { return ops_[node]; }
  [[nodiscard]] TargetId target(NodeId node) const { return targets_[node]; }
  [[nodiscard]] uint8_t flags(NodeId node) const { return flags_[node]; }
  [[nodiscard]] uint32_t name(NodeId node) const { return names_[node]; }
  [[nodiscard]] std::span<const Argument> args(NodeId node) const {
    return {values_.data() + begins_[node], n_args_[node]};
  }
  // Keys and values alternate.
  [[nodiscard]] std::span<const Argument> kwargs(NodeId node) const {
    return {values_.data() + begins_[node] + n_args_[node], 2 * size_t{n_kwargs_[node]}};
  }
  // Everything that the node's operands hold, however deep.
  [[nodiscard]] std::span<const Argument> operands(NodeId node) const {
    return {values_.data() + begins_[node], values_.data() + begins_[node + 1]};
  }
  [[nodiscard]] std::span<const NodeId> users(NodeId node) const {
    return {users_.data() + user_begins_[node], users_.data() + user_begins_[node + 1]};
  }
  // The value that the node takes a part of by getitem(value, number), be it a tuple or not; kNone
  // for any other node. Defined here, for most nodes are told by their flags alone.
  [[nodiscard]] NodeId whole_of(NodeId node) const {
    if ((flags(node) & target_flag::kGetItem) == 0) return kNone;
    const auto operands = args(node);
    const bool plain = operands.size() == 2 && operands[0].is_node() &&
                       operands[1].tag == Tag::kInt && kwargs(node).empty();
    return plain ? operands[0].payload : kNone;
  }
  // Absent when the node has no such keyword argument.
  [[nodiscard]] Argument kwarg(NodeId node, uint32_t key) const;
  [[nodiscard]] Argument kwarg(NodeId node, std::string_view key) const;
  [[nodiscard]] std::span<const Argument> items(Argument container) const;
  [[nodiscard]] int64_t as_int(Argument value) const;
  [[nodiscard]] double as_float(Argument value) const;
  [[nodiscard]] std::string_view string(uint32_t id) const { return strings_.at(id); }
  [[nodiscard]] std::string_view expr(uint32_t id) const { return exprs_.at(id); }
  [[nodiscard]] uint32_t expr_count() const { return exprs_.size(); }
  [[nodiscard]] const Meta& meta(NodeId node) const;
  [[nodiscard]] bool is_tuple(NodeId node) const { return meta(node).kind == MetaKind::kTuple; }
  [[nodiscard]] const Meta& meta_at(uint32_t id) const { return metas_[id]; }
  [[nodiscard]] uint32_t meta_id(NodeId node) const { return meta_of_[node]; }
  [[nodiscard]] std::span<const Dim> dims(const Meta& meta) const {
    return {dim_pool_.data() + meta.dims.begin, meta.dims.count};
  }
  [[nodiscard]] std::span<const Dim> strides(const Meta& meta) const {
    return {dim_pool_.data() + meta.strides.begin, meta.strides.count};
  }
  [[nodiscard]] std::span<const uint32_t> parts(const Meta& meta) const {
    return {part_pool_.data() + meta.parts.begin, meta.parts.count};
  }
  [[nodiscard]] const std::vector<std::pair<uint32_t, int64_t>>& symbols() const {
    return symbols_;
  }
  [[nodiscard]] size_t memory_bytes() const;

  // One line a person can read, such as "%add_1" or "[4096, 8192]".
  [[nodiscard]] std::string format_value(Argument value) const;
  [[nodiscard]] std::string node_label(NodeId node) const;
  [[nodiscard]] std::string format_dims(std::span<const Dim> dims) const;

 private:
  friend class TableWriter;
  friend class TableReader;

  std::vector<Op> ops_;
  std::vector<uint8_t> flags_;
  std::vector<TargetId> targets_;
  std::vector<uint32_t> names_;
  std::vector<uint32_t> begins_{0};  // size() + 1 once finished
  std::vector<uint32_t> n_args_;
  std::vector<uint32_t> n_kwargs_;
  std::vector<uint32_t> meta_of_;
  std::vector<Argument> values_;
  std::vector<Span> spans_;
  std::vector<int64_t> ints_;
  std::vector<double> floats_;
  StringInterner strings_;
  StringInterner exprs_;
  std::vector<Meta> metas_;
  std::vector<Dim> dim_pool_;
  std::vector<uint32_t> part_pool_;
  std::vector<std::pair<uint32_t, int64_t>> symbols_;  // name (string id), example value
  std::vector<uint32_t> user_begins_;
  std::vector<NodeId> users_;
  [[nodiscard]] uint64_t hash_of(const Meta& meta) const;
  [[nodiscard]] bool same(const Meta& a, const Meta& b) const;

  std::unordered_multimap<uint64_t, uint32_t> meta_ids_;  // by hash
  std::unordered_map<int64_t, uint32_t> int_ids_;
  std::unordered_map<uint64_t, uint32_t> float_ids_;  // by bits: -0.0 and NaNs keep themselves
};

// The shortest text that reads back as the same number; never one that reads as an integer.
[[nodiscard]] std::string format_float(double value);

}  // namespace spfast
