#include "match/look_through.h"

#include <limits>

#include "table/targets.h"

namespace spfast {
namespace {

NodeId operand_node(const NodeTable& table, NodeId node, size_t position) {
  const auto args = table.args(node);
  if (position >= args.size() || !args[position].is_node()) return kNone;
  return args[position].payload;
}

// The sizes end in the width: no row is cut or joined.
bool keeps_rows(const NodeTable& table, NodeId node, int64_t width) {
  const auto args = table.args(node);
  if (args.size() != 2 || (args[1].tag != Tag::kList && args[1].tag != Tag::kTuple)) return false;
  const auto sizes = table.items(args[1]);
  return sizes.size() >= 2 && sizes.back().tag == Tag::kInt && table.as_int(sizes.back()) == width;
}

bool is_int(const NodeTable& table, Value value, int64_t wanted) {
  return value.tag == Tag::kInt && table.as_int(value) == wanted;
}

// slice(x, dim=0, start=None, end=None, step=1) that keeps everything, by its literals alone.
bool slices_everything(const NodeTable& table, NodeId node) {
  const auto args = table.args(node);
  if (!table.kwargs(node).empty()) return false;
  const auto absent = [&](size_t i) { return i >= args.size() || args[i].tag == Tag::kNoneType; };
  const bool from_start = absent(2) || is_int(table, args[2], 0);
  const bool to_end = absent(3) || is_int(table, args[3], std::numeric_limits<int64_t>::max());
  const bool every = args.size() <= 4 || is_int(table, args[4], 1);
  return from_start && to_end && every;
}

}  // namespace

NodeId LookThrough::source(const NodeTable& table, NodeId node, int64_t width) {
  const uint8_t flags = table.flags(node);
  if ((flags & target_flag::kView) != 0) {
    return keeps_rows(table, node, width) ? operand_node(table, node, 0) : kNone;
  }
  if ((flags & target_flag::kIdentity) != 0) return operand_node(table, node, 0);
  if ((flags & target_flag::kCopy) != 0) return operand_node(table, node, 1);
  if ((flags & target_flag::kSlice) != 0 && slices_everything(table, node)) {
    return operand_node(table, node, 0);
  }
  return kNone;
}

LookThrough::LookThrough(const NodeTable& table, int64_t width)
    : width_(width), root_(table.size()) {
  constexpr uint8_t kNoise =
      target_flag::kView | target_flag::kIdentity | target_flag::kCopy | target_flag::kSlice;
  for (NodeId node = 0; node < table.size(); ++node) {
    root_[node] = node;
    if ((table.flags(node) & kNoise) == 0) continue;
    const NodeId from = source(table, node, width);
    if (from != kNone) root_[node] = root_[from];
  }
}

}  // namespace spfast
