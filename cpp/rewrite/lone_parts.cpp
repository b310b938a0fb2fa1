#include "rewrite/lone_parts.h"

#include <algorithm>
#include <optional>
#include <span>
#include <tuple>

#include "base/sorted.h"
#include "base/work.h"
#include "table/targets.h"

namespace spfast {
namespace {

// Some elements of a value along one dim.
struct Part {
  NodeId whole;
  int64_t dim;
  int64_t first;
  int64_t end;
  NodeId node;
};

std::optional<int64_t> literal(const NodeTable& table, NodeId node, size_t position,
                               const char* keyword, int64_t absent) {
  const auto args = table.args(node);
  const Argument value = position < args.size() ? args[position] : table.kwarg(node, keyword);
  if (value.tag == Tag::kAbsent || value.tag == Tag::kNoneType) return absent;
  if (value.tag != Tag::kInt) return std::nullopt;
  return table.as_int(value);
}

// How many parts a value is split into, and those of them that are reached.
struct Items {
  size_t count = 0;
  std::vector<int64_t> read;
};

Items items_of(const NodeTable& table, NodeId node, const Reached& reached) {
  Items items;
  items.count = table.parts(table.meta(node)).size();
  for (const NodeId user : table.users(node)) {
    if (!reached(user)) continue;
    const bool item = (table.flags(user) & target_flag::kGetItem) != 0;
    if (item && table.args(user).size() == 2 && table.args(user)[1].tag == Tag::kInt) {
      items.read.push_back(table.as_int(table.args(user)[1]));
    }
  }
  sort_unique(items.read);
  return items;
}

// The elements that a node takes, of a dim of so many; none where literals do not tell.
std::pair<int64_t, int64_t> range_of(const NodeTable& table, NodeId node, PartBy by, int64_t size) {
  constexpr std::pair<int64_t, int64_t> kNone{0, 0};
  const auto from_end = [&](int64_t at) {
    return std::clamp(at < 0 ? at + size : at, int64_t{0}, size);
  };
  if (by == PartBy::kSlice) {
    const auto first = literal(table, node, 2, "start", 0);
    const auto end = literal(table, node, 3, "end", size);
    if (!first || !end || literal(table, node, 4, "step", 1) != 1) return kNone;
    return {from_end(*first), from_end(*end)};
  }
  if (by == PartBy::kNarrow) {
    const auto first = literal(table, node, 2, "start", 0);
    const auto length = literal(table, node, 3, "length", 0);
    if (!first || !length) return kNone;
    return {from_end(*first), from_end(*first) + *length};
  }
  if (by == PartBy::kSelect) {
    const auto at = literal(table, node, 2, "index", 0);
    if (!at) return kNone;
    return {from_end(*at), from_end(*at) + 1};
  }
  return kNone;
}

// Whether parts of one value, sorted by where they begin, are all of it.
bool are_whole(std::span<const Part> parts, int64_t size) {
  int64_t end = 0;
  for (const Part& part : parts) {
    if (part.first > end) return false;
    end = std::max(end, part.end);
  }
  return end >= size;
}

}  // namespace

void list_sized(const NodeTable& table, NodeId node, PartBy by, std::vector<NodeId>& out) {
  const auto args = table.args(node);
  if (by == PartBy::kNone || args.empty() || !args[0].is_node()) return;
  out.push_back(args[0].payload);
  if (by == PartBy::kSplit || by == PartBy::kUnbind) out.push_back(node);
}

std::vector<NodeId> find_lone_parts(const NodeTable& table, TraitsCache& traits,
                                    const Reached& reached) {
  std::vector<Part> parts;
  std::vector<NodeId> lone;
  for (NodeId node = 0; node < table.size(); ++node) {
    SPFAST_WORK(1);
    if (table.op(node) != Op::kCallFunction || !reached(node)) continue;
    const PartBy by = traits.of(table.target(node)).takes_part;
    const auto args = table.args(node);
    if (by == PartBy::kNone || args.empty() || !args[0].is_node()) continue;
    const NodeId whole = args[0].payload;
    const auto dim = literal(table, node, by == PartBy::kSplit ? 2 : 1, "dim", 0);
    const auto dims = table.dims(table.meta(whole));
    if (!dim || table.meta(whole).kind != MetaKind::kTensor) continue;
    const auto rank = static_cast<int64_t>(dims.size());
    const int64_t along = *dim < 0 ? *dim + rank : *dim;
    // Along the tokens a part is some of the rows, which is looked at elsewhere.
    if (along <= 0 || along >= rank) continue;
    if (by == PartBy::kSplit || by == PartBy::kUnbind) {
      const Items items = items_of(table, node, reached);
      if (items.read.size() < items.count) lone.push_back(node);
      continue;
    }
    const Dim size = dims[static_cast<size_t>(along)];
    const auto [first, end] =
        size.is_expr() ? std::pair<int64_t, int64_t>{0, 0} : range_of(table, node, by, size.raw);
    parts.push_back({whole, along, first, end, node});
  }
  const auto place = [](const Part& part) { return std::tuple(part.whole, part.dim, part.first); };
  std::sort(parts.begin(), parts.end(), [&](const Part& a, const Part& b) {
    return std::tuple(place(a), a.node) < std::tuple(place(b), b.node);
  });
  for (size_t first = 0, last = 0; first < parts.size(); first = last) {
    last = first;
    const Part& one = parts[first];
    while (last < parts.size() && parts[last].whole == one.whole && parts[last].dim == one.dim) {
      ++last;
    }
    const std::span of_one(parts.data() + first, last - first);
    const Dim size = table.dims(table.meta(one.whole))[static_cast<size_t>(one.dim)];
    if (!size.is_expr() && are_whole(of_one, size.raw)) continue;
    for (const Part& part : of_one) lone.push_back(part.node);
  }
  std::sort(lone.begin(), lone.end());
  return lone;
}

}  // namespace spfast
