#include "pairs/live_graph.h"

#include <algorithm>

#include "rewrite/row_shapes.h"
#include "table/targets.h"

namespace spfast {
namespace {

struct NameTargets {
  const TargetId unsqueeze = intern_target("aten.unsqueeze.default");
  const TargetId squeeze = intern_target("aten.squeeze.dim");
  const TargetId flatten = intern_target("aten.flatten.using_ints");
  const TargetId contiguous = intern_target("aten.contiguous.default");
  const TargetId bit_view = intern_target("aten.view.dtype");
  const TargetId convert = intern_target("prims.convert_element_type.default");
  const TargetId to_copy = intern_target("aten._to_copy.default");
};

const NameTargets& name_targets() {
  static const NameTargets instance;
  return instance;
}

}  // namespace

LiveGraph::LiveGraph(NodeTable& table, MetaSource& source)
    : table_(table), source_(source), gone_(table.size(), false), places_(table.size()) {
  for (NodeId node = 0; node < table.size(); ++node) places_[node] = (node + 1) * kStep;
}

Meta LiveGraph::meta(NodeId node) {
  if (table_.meta(node).kind == MetaKind::kUnknown) source_.read_metas(table_, {&node, 1});
  return table_.meta(node);
}

std::vector<Dim> LiveGraph::dims(NodeId node) {
  const Meta found = meta(node);
  const auto dims = table_.dims(found);
  return {dims.begin(), dims.end()};
}

Dim LiveGraph::rows(NodeId node) {
  const Meta found = meta(node);
  return found.dims.count < 2 ? Dim::of(1) : found.tokens;
}

std::string_view LiveGraph::dtype(NodeId node) { return table_.string(meta(node).dtype); }

int64_t LiveGraph::item_bytes(NodeId node) { return dtype_bytes(dtype(node)); }

bool LiveGraph::is_row_major(NodeId node) {
  const Meta found = meta(node);
  if (found.strides.count == 0) return true;
  const auto dims = table_.dims(found);
  const auto strides = table_.strides(found);
  bool counted = true;
  int64_t expected = 1;
  for (size_t i = dims.size(); i-- > 0;) {
    if (dims[i] == Dim::of(1)) continue;
    // The table knows no product with a symbolic size. The usual strides were found above.
    if (!counted || strides[i] != Dim::of(expected)) return false;
    counted = !dims[i].is_expr();
    if (counted) expected *= dims[i].raw;
  }
  return true;
}

bool LiveGraph::can_list(NodeId node) {
  const auto sizes = dims(node);
  return std::count_if(sizes.begin(), sizes.end(), [](Dim d) { return d.is_expr(); }) < 2;
}

TargetId LiveGraph::target(NodeId node) const {
  if (table_.op(node) != Op::kCallFunction || is_replaced(node)) return kNone;
  return table_.target(node);
}

bool LiveGraph::is_view(NodeId node) const {
  const TargetId found = target(node);
  if (found == kNone) return false;
  const NameTargets& k = name_targets();
  return (table_.flags(node) & target_flag::kView) != 0 || found == k.unsqueeze ||
         found == k.squeeze || found == k.flatten;
}

bool LiveGraph::is_identity(NodeId node) const {
  const TargetId found = target(node);
  static const TargetId lift = intern_target("aten.lift_fresh_copy.default");
  return found != kNone && found != lift &&
         ((table_.flags(node) & target_flag::kIdentity) != 0 || found == name_targets().contiguous);
}

bool LiveGraph::is_bit_view(NodeId node) {
  if (target(node) != name_targets().bit_view) return false;
  const NodeId before = first_operand(node);
  return before != kNone && is_tensor(before) && is_tensor(node) &&
         item_bytes(before) == item_bytes(node);
}

bool LiveGraph::is_cast(NodeId node) {
  const TargetId found = target(node);
  if (found == kNone || (found != name_targets().convert && found != name_targets().to_copy))
    return false;
  const auto kwargs = table_.kwargs(node);
  for (size_t i = 0; i < kwargs.size(); i += 2) {
    if (kwargs[i].tag != Tag::kString || table_.string(kwargs[i].payload) != "dtype") return false;
  }
  const NodeId before = first_operand(node);
  return before != kNone && is_tensor(before) && is_tensor(node);
}

NodeId LiveGraph::first_operand(NodeId node) const {
  const auto args = table_.args(node);
  return !args.empty() && args[0].is_node() ? args[0].payload : kNone;
}

Argument LiveGraph::argument(NodeId node, size_t place, std::string_view name) const {
  const auto args = table_.args(node);
  return place < args.size() ? args[place] : table_.kwarg(node, name);
}

int64_t LiveGraph::int_argument(NodeId node, size_t place, std::string_view name,
                                int64_t missing) const {
  const Argument value = argument(node, place, name);
  if (value.tag == Tag::kAbsent || value.tag == Tag::kNoneType) return missing;
  return value.tag == Tag::kInt ? table_.as_int(value) : kNoInt;
}

std::vector<NodeId> LiveGraph::users(NodeId node) const {
  std::vector<NodeId> found;
  for (const NodeId user : table_.users(node)) {
    if (!gone_[user]) found.push_back(user);
  }
  return found;
}

size_t LiveGraph::reader_count(NodeId node) const {
  const auto found = table_.users(node);
  const auto lives = [&](NodeId user) { return !gone_[user]; };
  const auto added = readers_.find(node);
  return static_cast<size_t>(std::count_if(found.begin(), found.end(), lives)) +
         (added == readers_.end() ? 0 : added->second.size());
}

NodeId LiveGraph::only_reader(NodeId node) const {
  if (reader_count(node) != 1) return kNone;
  const auto found = users(node);
  return found.empty() ? kNone : found[0];
}

uint64_t LiveGraph::first_new_reader(NodeId node) const {
  const auto added = readers_.find(node);
  if (added == readers_.end()) return UINT64_MAX;
  return *std::min_element(added->second.begin(), added->second.end());
}

NodeRef LiveGraph::now(NodeId node) const {
  const auto found = stands_for_.find(node);
  return found == stands_for_.end() ? node : found->second;
}

void LiveGraph::replace(NodeId node, NodeRef now, NodeId before) {
  stands_for_[node] = now;
  places_[node] = place_before(before);
}

// What stands before a node that was moved itself shares that node's place. This is rare, and never
// tells an order that is not there.
uint64_t LiveGraph::place_before(NodeId before) {
  if (was_moved(before)) return places_[before];
  return places_[before] - kStep + ++placed_before_[before];
}

}  // namespace spfast
