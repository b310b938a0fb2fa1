#include "rewrite/layouts.h"

#include <algorithm>
#include <limits>
#include <string>

namespace spfast {

Layouts::Layouts(const NodeTable& table, const RowRules* rules) : table_(table), rules_(rules) {
  for (const char* name : {"aten.mm.default", "aten.addmm.default", "aten.bmm.default",
                           "aten.baddbmm.default", "aten.sym_size.int"}) {
    products_.push_back(intern_target(name));
  }
  std::sort(products_.begin(), products_.end());
}

bool Layouts::is_dense(const Meta& meta) const {
  if (meta.kind != MetaKind::kTensor) return false;
  const auto dims = table_.dims(meta);
  const auto strides = table_.strides(meta);
  if (strides.empty()) return true;
  int64_t expected = 1;
  bool counted = true;  // whether `expected` is a number
  for (size_t i = dims.size(); i-- > 0;) {
    if (dims[i] == Dim::of(1)) continue;
    if (dims[i] == Dim::of(0)) return true;
    if (!counted || strides[i] != Dim::of(expected)) return false;
    counted = !dims[i].is_expr() && !__builtin_mul_overflow(expected, dims[i].raw, &expected);
  }
  return true;
}

bool Layouts::may_read_fresh(NodeId reader, NodeId alias) const {
  const Meta& meta = table_.meta(alias);
  if (meta.kind != MetaKind::kTensor || table_.strides(meta).empty()) return true;
  if (is_dense(meta)) return !sees_strides(reader);
  if (table_.op(reader) != Op::kCallFunction) return false;
  const TargetId target = table_.target(reader);
  if (std::binary_search(products_.begin(), products_.end(), target)) return true;
  // Elementwise operators lay their results out in the order of their operands' strides.
  const RowRule* rule = rules_ == nullptr ? nullptr : rules_->find(target);
  if (rule == nullptr || rule->family != RowRule::Family::kPointwise ||
      (table_.flags(reader) & target_flag::kAliases) != 0 || !descends(meta)) {
    return false;
  }
  // Along a repeated dim the other operands decide.
  const auto strides = table_.strides(meta);
  if (std::find(strides.begin(), strides.end(), Dim::of(0)) == strides.end()) return true;
  const auto operands = table_.operands(reader);
  return std::all_of(operands.begin(), operands.end(), [&](Argument value) {
    if (!value.is_node()) return true;
    const Meta& other = table_.meta(value.payload);
    return other.kind == MetaKind::kSym ||
           (other.kind == MetaKind::kTensor && (table_.strides(other).empty() || descends(other)));
  });
}

// Of dims of size 1, too.
bool Layouts::sees_strides(NodeId reader) const {
  if (table_.op(reader) != Op::kCallFunction) return table_.op(reader) != Op::kOutput;
  const std::string name = target_name(table_.target(reader));
  const auto has = [&](const char* part) { return name.find(part) != std::string::npos; };
  const bool known = name.starts_with("aten.") || name.starts_with("prims.") ||
                     name.starts_with("_operator.") || name.starts_with("_c10d_functional.");
  return !known || has("stride") || has("storage") || has("contiguous");
}

bool Layouts::descends(const Meta& meta) const {
  const auto dims = table_.dims(meta);
  const auto strides = table_.strides(meta);
  int64_t last = std::numeric_limits<int64_t>::max();
  for (size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] == Dim::of(1)) continue;
    if (strides[i] == Dim::of(0)) continue;  // repeated: of no place in the order
    // Only the outermost may be symbolic: of the others it is not known which is larger.
    if (strides[i].is_expr() ? i > 0 : strides[i].raw > last || strides[i].raw < 0) return false;
    if (!strides[i].is_expr()) last = strides[i].raw;
  }
  return true;
}

}  // namespace spfast
