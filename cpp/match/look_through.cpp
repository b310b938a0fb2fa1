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

// The last of a view's sizes: if a stream is that wide, the view cuts and joins no row. Absent
// where the sizes do not say.
std::optional<int64_t> row_width(const NodeTable& table, NodeId node) {
  const auto args = table.args(node);
  if (args.size() != 2 || !is_sequence(args[1].tag)) return {};
  const auto sizes = table.items(args[1]);
  if (sizes.size() < 2 || sizes.back().tag != Tag::kInt) return {};
  return table.as_int(sizes.back());
}

bool is_int(const NodeTable& table, Argument value, int64_t wanted) {
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

// What a node that changes nothing, whatever the width, is a copy or slice of.
NodeId plain_source(const NodeTable& table, NodeId node, uint8_t flags) {
  if ((flags & target_flag::kIdentity) != 0) {
    return LookThrough::wants_format(table, node) ? kNone : operand_node(table, node, 0);
  }
  if ((flags & target_flag::kCopy) != 0) return operand_node(table, node, 1);
  if ((flags & target_flag::kSlice) != 0 && slices_everything(table, node)) {
    return operand_node(table, node, 0);
  }
  return kNone;
}

}  // namespace

std::optional<int64_t> LookThrough::width_of(const NodeTable& table, NodeId node) {
  const bool view = (table.flags(node) & target_flag::kView) != 0;
  return view ? row_width(table, node) : std::nullopt;
}

bool LookThrough::wants_format(const NodeTable& table, NodeId node) {
  const auto pairs = table.kwargs(node);
  for (size_t i = 1; i < pairs.size(); i += 2) {
    if (pairs[i].tag != Tag::kConst) continue;
    if (table.string(pairs[i].payload).starts_with("torch.channels_last")) return true;
  }
  return false;
}

NodeId LookThrough::source(const NodeTable& table, NodeId node, int64_t width) {
  const uint8_t flags = table.flags(node);
  if ((flags & target_flag::kView) != 0) {
    return row_width(table, node) == width ? operand_node(table, node, 0) : kNone;
  }
  return plain_source(table, node, flags);
}

// It stands here to share the functions above: a call across files costs 3 % of a match.
AliasRoots::AliasRoots(const NodeTable& table)
    : plain_(table.size()), view_of_(table.size(), kNone) {
  constexpr uint8_t kPlain = target_flag::kIdentity | target_flag::kCopy | target_flag::kSlice;
  for (NodeId node = 0; node < table.size(); ++node) {
    plain_[node] = node;
    const uint8_t flags = table.flags(node);
    if ((flags & target_flag::kView) != 0) {
      const auto width = row_width(table, node);
      const NodeId from = operand_node(table, node, 0);
      if (!width || from == kNone) continue;
      view_of_[node] = static_cast<uint32_t>(views_.size());
      views_.push_back({*width, root(from, *width)});
    } else if ((flags & kPlain) != 0) {
      const NodeId from = plain_source(table, node, flags);
      if (from != kNone) plain_[node] = plain_[from];
    }
  }
}

}  // namespace spfast
