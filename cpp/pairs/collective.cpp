#include "pairs/collective.h"

#include <algorithm>
#include <optional>

#include "table/targets.h"

namespace spfast {
namespace {

struct CutTargets {
  const TargetId split = intern_target("aten.split.Tensor");
  const TargetId slice = intern_target("aten.slice.Tensor");
  const TargetId cat = intern_target("aten.cat.default");
};

const CutTargets& cut_targets() {
  static const CutTargets instance;
  return instance;
}

// How split and cat make a collective along dim 0 one along another dim: the dim, the node where
// that ends, and the nodes of it.
struct MovedDim {
  NodeId end = kNone;
  size_t dim = 0;
  std::vector<NodeId> nodes;
};

class CollectiveReader {
 public:
  explicit CollectiveReader(LiveGraph& graph) : graph_(graph), table_(graph.table()) {}

  std::variant<FoundCollective, Why> read(const CollectiveForm& form, NodeId call) {
    FoundCollective found;
    found.call = found.value = call;
    found.gathers = form.gathers;
    found.reduce_op = form.gathers ? "" : "sum";
    found.inside = {call};
    const auto args = arguments(form, call);
    if (!args) return "its arguments cannot be told";
    Argument operand;
    int64_t dim = 0;
    for (size_t i = 0; i < form.slots.size(); ++i) {
      const Argument given = (*args)[i];
      const bool is_int = given.tag == Tag::kInt;
      switch (form.slots[i].kind) {
        case CollectiveArg::Kind::kInput:
          operand = given;
          break;
        case CollectiveArg::Kind::kInt:
          dim = is_int ? table_.as_int(given) : LiveGraph::kNoInt;
          break;
        case CollectiveArg::Kind::kWorldSize:
          found.size = is_int ? table_.as_int(given) : 0;
          break;
        case CollectiveArg::Kind::kGroup:
          found.group = given;
          break;
        case CollectiveArg::Kind::kReduceOp:
          if (!form.gathers && given.tag == Tag::kString)
            found.reduce_op = table_.string(given.payload);
          break;
      }
    }
    static constexpr const char* kUnknownShape = "the shape of what it moves is not known";
    if (!operand.is_node() || found.size < 1 || !graph_.is_tensor(operand.payload))
      return kUnknownShape;
    found.operand = operand.payload;
    const auto rank = static_cast<int64_t>(graph_.rank(found.operand));
    if (dim < 0) dim += rank;
    if (dim < 0 || dim >= rank) return kUnknownShape;
    found.dim = static_cast<size_t>(dim);
    if (form.wait != kNone && !finish(form, found)) {
      return "its unfinished result is read by something else than one wait";
    }
    if (!graph_.is_tensor(found.value)) return kUnknownShape;
    move_dim(found);
    flatten(found);
    return found;
  }

 private:
  // The arguments as they lie in the operator's schema; nothing where that cannot be told.
  [[nodiscard]] std::optional<std::vector<Argument>> arguments(const CollectiveForm& form,
                                                               NodeId call) const {
    const auto args = table_.args(call);
    std::vector<Argument> found(args.begin(), args.end());
    if (found.size() > form.slots.size()) return std::nullopt;
    size_t named = 0;
    while (found.size() < form.slots.size()) {
      if (found.size() >= form.names.size()) return std::nullopt;
      found.push_back(table_.kwarg(call, form.names[found.size()]));
      if (found.back().tag == Tag::kAbsent) return std::nullopt;
      ++named;
    }
    if (table_.kwargs(call).size() != 2 * named) return std::nullopt;
    return found;
  }

  [[nodiscard]] bool finish(const CollectiveForm& form, FoundCollective& found) const {
    std::vector<NodeId> readers = graph_.users(found.call);
    std::erase_if(readers, [&](NodeId user) { return table_.op(user) == Op::kOutput; });
    if (readers.size() != 1 || table_.target(readers[0]) != form.wait) return false;
    found.value = readers[0];
    found.inside.push_back(found.value);
    return true;
  }

  void move_dim(FoundCollective& found) {
    if (found.dim != 0) return;
    const auto moved = found.gathers ? put_together(found.value, found.size)
                                     : taken_apart(found.operand, found.size);
    if (!moved) return;
    found.dim = moved->dim;
    auto& inside = found.inside;
    if (found.gathers) {
      found.value = moved->end;
      inside.insert(inside.end(), moved->nodes.begin(), moved->nodes.end());
    } else {
      found.operand = moved->end;
      inside.insert(inside.begin(), moved->nodes.begin(), moved->nodes.end());
    }
  }

  // Takes dim 0 in place of a dim before which all sizes are 1: the rows lie one after the other
  // all the same.
  void flatten(FoundCollective& found) const {
    const auto sizes = graph_.dims(found.operand);
    const auto end = sizes.begin() + static_cast<std::ptrdiff_t>(found.dim);
    if (std::all_of(sizes.begin(), end, [](Dim d) { return d == Dim::of(1); })) found.dim = 0;
  }

  // cat(split(gathered, size parts, dim 0), dim d): what gathers along dim d.
  std::optional<MovedDim> put_together(NodeId value, int64_t size) {
    std::vector<NodeId> parts;
    MovedDim moved;
    const NodeId split = graph_.only_reader(value);
    if (split != kNone && graph_.target(split) == cut_targets().split) {
      parts = graph_.users(split);
      sort_parts(parts);
      if (graph_.int_argument(split, 2, "dim", 0) != 0 || !are_parts(parts, split, size)) return {};
      moved.nodes.push_back(split);
    } else {
      parts = graph_.users(value);
      if (!are_slices(parts, value, size, 0)) return {};
    }
    const NodeId cat = graph_.only_reader(parts[0]);
    if (cat == kNone || !is_cat(cat, parts) || !graph_.is_tensor(cat)) return {};
    for (const NodeId part : parts) {
      if (graph_.reader_count(part) != 1) return {};
    }
    moved.end = cat;
    const auto dim = place_of(graph_.int_argument(cat, 1, "dim", 0), graph_.rank(cat));
    if (!dim) return {};
    moved.dim = *dim;
    moved.nodes.insert(moved.nodes.end(), parts.begin(), parts.end());
    moved.nodes.push_back(cat);
    return moved;
  }

  // cat(parts of a value along dim d, dim 0) that a scatter along dim 0 reads.
  std::optional<MovedDim> taken_apart(NodeId cat, int64_t size) {
    if (graph_.target(cat) != cut_targets().cat || graph_.int_argument(cat, 1, "dim", 0) != 0)
      return {};
    const Argument list = graph_.argument(cat, 0, "tensors");
    if (!is_sequence(list.tag) || graph_.reader_count(cat) != 1) return {};
    std::vector<NodeId> parts;
    for (const Argument item : table_.items(list)) {
      if (!item.is_node() || graph_.reader_count(item.payload) != 1) return {};
      parts.push_back(item.payload);
    }
    if (static_cast<int64_t>(parts.size()) != size || parts.empty()) return {};
    const NodeId source = graph_.first_operand(parts[0]);
    if (source == kNone) return {};
    MovedDim moved;
    moved.nodes = parts;
    moved.nodes.push_back(cat);
    if (graph_.target(source) == cut_targets().split) {
      if (!are_parts(parts, source, size)) return {};
      moved.end = graph_.first_operand(source);
      if (moved.end == kNone || !graph_.is_tensor(moved.end)) return {};
      const int64_t given = graph_.int_argument(source, 2, "dim", 0);
      const auto dim = place_of(given, graph_.rank(moved.end));
      if (!dim) return {};
      moved.dim = *dim;
      moved.nodes.insert(moved.nodes.begin(), source);
      return moved;
    }
    if (graph_.target(parts[0]) != cut_targets().slice || !graph_.is_tensor(source)) return {};
    const int64_t given = graph_.int_argument(parts[0], 1, "dim", 0);
    const auto dim = place_of(given, graph_.rank(source));
    if (!dim || !are_slices(parts, source, size, *dim)) return {};
    moved.end = source;
    moved.dim = *dim;
    return moved;
  }

  [[nodiscard]] static std::optional<size_t> place_of(int64_t dim, size_t rank) {
    const auto count = static_cast<int64_t>(rank);
    if (dim == LiveGraph::kNoInt || dim < -count || dim >= count) return std::nullopt;
    return static_cast<size_t>(dim < 0 ? dim + count : dim);
  }

  [[nodiscard]] bool is_cat(NodeId cat, const std::vector<NodeId>& parts) const {
    if (graph_.target(cat) != cut_targets().cat) return false;
    const Argument list = graph_.argument(cat, 0, "tensors");
    if (!is_sequence(list.tag)) return false;
    const auto items = table_.items(list);
    return std::equal(
        items.begin(), items.end(), parts.begin(), parts.end(),
        [](Argument item, NodeId part) { return item == Argument{Tag::kNode, part}; });
  }

  // Which item of a tuple a node is; -1: of none.
  [[nodiscard]] int64_t item(NodeId part) const {
    return table_.whole_of(part) == kNone ? -1 : table_.as_int(table_.args(part)[1]);
  }

  void sort_parts(std::vector<NodeId>& parts) const {
    std::sort(parts.begin(), parts.end(), [&](NodeId a, NodeId b) { return item(a) < item(b); });
  }

  // Whether nodes are all items of a split, first to last.
  [[nodiscard]] bool are_parts(const std::vector<NodeId>& parts, NodeId split, int64_t size) const {
    if (static_cast<int64_t>(parts.size()) != size || graph_.reader_count(split) != parts.size()) {
      return false;
    }
    for (size_t i = 0; i < parts.size(); ++i) {
      if (table_.whole_of(parts[i]) != split || item(parts[i]) != static_cast<int64_t>(i)) {
        return false;
      }
    }
    return true;
  }

  // Whether nodes are the equal slices of a value along a dim, first to last.
  bool are_slices(const std::vector<NodeId>& parts, NodeId whole, int64_t size, size_t dim) {
    if (dim >= graph_.rank(whole)) return false;
    const Dim sliced = graph_.dims(whole)[dim];
    if (static_cast<int64_t>(parts.size()) != size || sliced.is_expr() || sliced.raw % size != 0) {
      return false;
    }
    const int64_t step = sliced.raw / size;
    for (size_t i = 0; i < parts.size(); ++i) {
      const NodeId part = parts[i];
      const auto place = static_cast<int64_t>(i);
      if (graph_.target(part) != cut_targets().slice || graph_.first_operand(part) != whole)
        return false;
      const auto given = place_of(graph_.int_argument(part, 1, "dim", 0), graph_.rank(whole));
      const int64_t start = graph_.int_argument(part, 2, "start", 0);
      const int64_t end = graph_.int_argument(part, 3, "end", INT64_MAX);
      const bool to_the_end = place == size - 1 && end >= sliced.raw;
      if (given != dim || start != place * step || (end != start + step && !to_the_end)) {
        return false;
      }
      if (graph_.int_argument(part, 4, "step", 1) != 1) return false;
    }
    return true;
  }

  LiveGraph& graph_;
  const NodeTable& table_;
};

}  // namespace

std::variant<FoundCollective, Why> read_collective(LiveGraph& graph, const CollectiveForm& form,
                                                   NodeId call) {
  return CollectiveReader(graph).read(form, call);
}

}  // namespace spfast
