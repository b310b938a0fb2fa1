#include "pairs/pair_writer.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "table/targets.h"

namespace spfast {
namespace {

struct NewTargets {
  const TargetId reshape = intern_target("aten.reshape.default");
  const TargetId add = intern_target("aten.add.Tensor");
  const TargetId size = intern_target("aten.sym_size.int");
  const TargetId cat = intern_target("aten.cat.default");
  const TargetId getitem = intern_target("_operator.getitem");
};

const NewTargets& new_targets() {
  static const NewTargets instance;
  return instance;
}

using ValueKind = PairValue::Kind;
using MadeForm = PairValue::Form;

PairValue value_of(NodeId node) { return {.kind = ValueKind::kOf, .of = node}; }

PairValue made(MadeForm form, NodeRef of) {
  return {.kind = ValueKind::kMade, .of = of, .form = form};
}

PlanArg flag(bool value) { return PlanArg::given(value ? kGivenTrue : kGivenFalse); }

}  // namespace

PairWriter::PairWriter(LiveGraph& graph, PairPlan& out) : graph_(graph), out_(out) {}

void PairWriter::write(const GatherPair& pair, uint32_t group) {
  before_ = pair.before;
  for (const NodeId node : pair.moved) {
    out_.plan.edits.push_back({Edit::Kind::kMove, node, before_, kNone});
    graph_.move(node, before_);
  }
  const NodeRef shard = shard_of(pair);
  const FoundCollective& gather = pair.gather;
  const Product& first = pair.products[0];
  const bool scaled = first.scales.has_value();
  PairValue outs{.kind = ValueKind::kList};
  for (const Product& each : pair.products) outs.parts.push_back(out_of(pair, each));
  PairValue both{.kind = ValueKind::kTuple};
  both.parts.push_back(pair.returns || scaled ? whole_of(pair) : PairValue{});
  both.parts.push_back(std::move(outs));
  const NodeRef fused =
      create_fused(*pair.layout, arguments_of(pair, shard, group), first.value, std::move(both));
  if (pair.returns) {
    NodeRef whole = item(fused, 0, gather.value);
    if (gather.dim == 0 && graph_.rank(gather.value) != 2) {
      whole = reshape(whole, gather.value, gather.value, value_of(gather.value));
    }
    take_place(gather.value, whole);
  }
  const NodeRef list = item(fused, 1, first.value);
  for (size_t i = 0; i < pair.products.size(); ++i) {
    const Product& each = pair.products[i];
    const NodeRef out = item(list, static_cast<int64_t>(i), each.value);
    take_place(each.value, finished(pair, each, out));
    if (each.addend == kNone) graph_.note_fused(each.value);
  }
  note(gather.call, pair.products, fused);
  std::vector<NodeId> inside = gather.inside;
  const auto add = [&](const std::vector<NodeId>& more) {
    inside.insert(inside.end(), more.begin(), more.end());
  };
  add(pair.shown);
  if (pair.scale_gather) add(pair.scale_gather->inside);
  for (const Product& each : pair.products) {
    add(each.inside);
    add(each.buffers);
  }
  settle(std::move(inside));
}

// This rank's rows, as the operator gathers them.
NodeRef PairWriter::shard_of(const GatherPair& pair) {
  const NodeId operand = pair.gather.operand;
  NodeRef shard = graph_.now(operand);
  NodeRef value = operand;
  if (pair.gather.dim == 0 && graph_.rank(operand) != 2) {
    const Dim rows = graph_.rows(operand);
    const Dim sizes[] = {rows, graph_.last_dim(operand)};
    shard = create(new_targets().reshape, {node(operand), PlanArg::sizes(listed(sizes))}, operand,
                   made(MadeForm::kFlat, operand));
    value = shard;
  }
  for (const NodeId step : pair.steps) {
    std::vector<PlanArg> args{shard == graph_.now(operand) ? node(operand) : PlanArg::of(shard)};
    const size_t count = graph_.table().args(step).size();
    for (size_t i = 1; i < count; ++i) {
      args.push_back(PlanArg::copy(step, static_cast<int64_t>(i)));
    }
    PairValue cast = made(MadeForm::kCast, value);
    cast.dtype = step;
    shard = create(graph_.table().target(step), std::move(args), step, std::move(cast));
    out_.plan.created.back().kwargs_of = step;
    value = shard;
  }
  return shard;
}

// What the operator returns of the gathered value: its rows, one after the other.
PairValue PairWriter::whole_of(const GatherPair& pair) {
  const NodeId value = pair.gather.value;
  const NodeId seen = pair.products[0].left;
  const bool flat = pair.gather.dim == 0;
  if (flat && graph_.rank(value) == 2 && graph_.dtype(value) == graph_.dtype(seen)) {
    return value_of(value);
  }
  PairValue whole = made(flat ? MadeForm::kWhole : MadeForm::kTurned, value);
  whole.like = value;
  whole.dtype = seen;
  return whole;
}

// What the operator yields for a product.
PairValue PairWriter::out_of(const GatherPair& pair, const Product& one) {
  if (pair.gather.dim == 0) return value_of(one.value);
  PairValue out = made(MadeForm::kTurned, one.value);
  out.like = pair.gather.value;
  out.dtype = one.value;
  return out;
}

// What a product yielded: in its shape, with its addend.
NodeRef PairWriter::finished(const GatherPair& pair, const Product& one, NodeRef out) {
  if (pair.gather.dim != 0) out = reshape(out, one.value, one.value, value_of(one.value));
  if (one.addend == kNone) return out;
  return create(new_targets().add, {PlanArg::of(out), node(one.addend)}, one.value,
                made(MadeForm::kFresh, one.value));
}

PairWriter::Arguments PairWriter::arguments_of(const GatherPair& pair, NodeRef shard,
                                               uint32_t group) {
  using enum FusedArgument;
  const auto each = [&](const auto& arg_of) {
    std::vector<PlanArg> items;
    for (const Product& one : pair.products) items.push_back(arg_of(one));
    return PlanArg::sizes(std::move(items));
  };
  const NodeId operand = pair.gather.operand;
  Arguments given{
      {kLeft, shard == graph_.now(operand) ? node(operand) : PlanArg::of(shard)},
      {kRights, each([&](const Product& one) { return node(one.right); })},
      {kDim, PlanArg::integer(static_cast<int64_t>(pair.gather.dim))},
      {kGroup, PlanArg::given(group)},
      {kReturnsLeft, flag(pair.returns)},
  };
  if (pair.left_scale == kNone) return given;
  given[kLeftScale] = node(pair.left_scale);
  given[kRightScales] = each([&](const Product& one) { return node(one.scales->right); });
  given[kBiases] = each([&](const Product& one) { return node_or_none(one.scales->bias); });
  given[kResultScales] = each([&](const Product& one) { return node_or_none(one.scales->result); });
  given[kOutDtypes] = each([&](const Product& one) { return PlanArg::dtype_of(one.value); });
  given[kFast] = each([&](const Product& one) { return flag(one.scales->fast); });
  return given;
}

void PairWriter::write(const ScatterPair& pair, uint32_t group) {
  const FoundCollective& scatter = pair.scatter;
  before_ = scatter.call;
  const NodeId product = pair.product.value;
  const NodeId like = pair.apart ? scatter.operand : product;
  const auto sizes = graph_.dims(like);
  const bool same =
      sizes.size() == graph_.rank(pair.result) && sizes.back() == graph_.last_dim(pair.result);
  const auto kept = [&] {
    return pair.each ? made(MadeForm::kFresh, pair.result) : value_of(pair.result);
  };
  PairValue mine = same ? kept() : made(MadeForm::kScattered, product);
  mine.like = like;
  mine.number = static_cast<int64_t>(scatter.dim);
  mine.count = scatter.size;
  const size_t first = out_.plan.created.size();
  const NodeRef fused =
      pair.each ? sum_of_fused(pair, group, mine)
                : create_fused(*pair.layout, arguments_of(pair, group), product, std::move(mine));
  NodeRef now = fused;
  if (!same) now = reshape(fused, pair.result, pair.result, value_of(pair.result));
  take_place(pair.result, now);
  const auto users = graph_.users(scatter.call);
  const bool saved = std::any_of(users.begin(), users.end(), [&](NodeId user) {
    return graph_.table().op(user) == Op::kOutput;
  });
  // Saved for another graph before it is finished; that graph waits for it.
  if (saved && scatter.call != pair.result) take_place(scatter.call, now);
  std::vector<Product> products{pair.product};
  products.insert(products.end(), pair.added.begin(), pair.added.end());
  note(scatter.call, products, first_fused(first, *pair.layout));
  std::vector<NodeId> inside = pair.inside;
  inside.insert(inside.end(), pair.product.buffers.begin(), pair.product.buffers.end());
  settle(std::move(inside));
}

// Writes one operator for each product. Each hides a collective of its own, and this rank's rows of
// them are added.
NodeRef PairWriter::sum_of_fused(const ScatterPair& pair, uint32_t group, const PairValue& mine) {
  NodeRef sum = kNone;
  ScatterPair one = pair;
  one.added.clear();
  const auto add = [&](const Product& product) {
    one.product = product;
    const NodeRef fused =
        create_fused(*pair.layout, arguments_of(one, group), product.value, PairValue(mine));
    sum = sum == kNone ? fused
                       : create(new_targets().add, {PlanArg::of(sum), PlanArg::of(fused)},
                                product.value, PairValue(mine));
  };
  add(pair.product);
  for (const Product& each : pair.added) add(each);
  return sum;
}

// The first node made since that calls an operator.
NodeRef PairWriter::first_fused(size_t since, const FusedLayout& layout) const {
  const auto& created = out_.plan.created;
  while (created.at(since).target != layout.target) ++since;
  return static_cast<NodeRef>(graph_.table().size() + since);
}

// How many features a product sums over.
Dim PairWriter::features_of(const ScatterPair& pair) {
  Dim sum = graph_.last_dim(pair.product.matrix());
  for (const Product& one : pair.added) sum = Dim::of(sum.raw + graph_.last_dim(one.left).raw);
  return sum;
}

// What is multiplied: of several products, their operands one beside the other.
PairWriter::Operands PairWriter::operands_of(const ScatterPair& pair) {
  const NodeId matrix = pair.product.matrix();
  if (pair.added.empty()) return {node(matrix), node(pair.product.right), matrix};
  std::vector<PlanArg> lefts;
  std::vector<PlanArg> rights;
  const auto add = [&](const Product& one) {
    lefts.push_back(node(one.left));
    rights.push_back(node(one.right));
  };
  add(pair.product);
  for (const Product& one : pair.added) add(one);
  const auto joined = [&](std::vector<PlanArg> parts, NodeId first, int64_t dim) {
    PairValue value = made(MadeForm::kJoined, first);
    value.number = dim;
    value.count = features_of(pair).raw;
    return create(new_targets().cat, {PlanArg::sizes(std::move(parts)), PlanArg::integer(dim)},
                  first, std::move(value));
  };
  const NodeRef left = joined(std::move(lefts), matrix, 1);
  const NodeRef right = joined(std::move(rights), pair.product.right, 0);
  return {PlanArg::of(left), PlanArg::of(right), left};
}

PairWriter::Arguments PairWriter::arguments_of(const ScatterPair& pair, uint32_t group) {
  using enum FusedArgument;
  const FoundCollective& scatter = pair.scatter;
  const NodeId origin = pair.product.matrix();
  const Operands operands = operands_of(pair);
  PlanArg left = operands.left;
  std::vector<PlanArg> shape = listed(graph_.dims(pair.product.value));
  if (pair.apart) {
    auto sizes = graph_.dims(scatter.operand);
    shape = listed(sizes);
    sizes.back() = features_of(pair);
    PairValue viewed = made(MadeForm::kViewed, operands.value);
    viewed.like = scatter.operand;
    left = PlanArg::of(create(new_targets().reshape, {left, PlanArg::sizes(listed(sizes))}, origin,
                              std::move(viewed)));
  }
  const auto op = static_cast<int64_t>(graph_.text(scatter.reduce_op));
  Arguments given{
      {kLeft, left},
      {kRight, operands.right},
      {kReduceOp, PlanArg::text(op)},
      {kGroup, PlanArg::given(group)},
      {kDim, PlanArg::integer(static_cast<int64_t>(scatter.dim))},
  };
  if (!pair.product.scales) return given;
  const ProductScales& scales = *pair.product.scales;
  const bool symbolic =
      std::any_of(shape.begin(), shape.end(), [](const PlanArg& size) { return size.value == -1; });
  if (symbolic) {
    shape[0] = PlanArg::of(create(new_targets().size, {left, PlanArg::integer(0)}, origin,
                                  made(MadeForm::kRows, origin)));
  }
  given[kLeftScale] = node(scales.left);
  given[kRightScale] = node(scales.right);
  given[kBias] = node_or_none(scales.bias);
  given[kResultScale] = node_or_none(scales.result);
  given[kOutDtype] = PlanArg::dtype_of(pair.product.value);
  given[kFast] = flag(scales.fast);
  given[kOutputShape] = PlanArg::sizes(std::move(shape));
  return given;
}

PlanArg PairWriter::node(NodeId node) {
  graph_.add_reader(node, before_);
  return PlanArg::of(graph_.now(node));
}

PlanArg PairWriter::node_or_none(Argument value) {
  return value.is_node() ? node(value.payload) : PlanArg::given(kGivenNone);
}

std::vector<PlanArg> PairWriter::listed(std::span<const Dim> sizes) const {
  std::vector<PlanArg> out;
  for (const Dim size : sizes) out.push_back(PlanArg::integer(size.is_expr() ? -1 : size.raw));
  return out;
}

NodeRef PairWriter::create(TargetId target, std::vector<PlanArg> args, NodeId origin,
                           PairValue value) {
  Created one;
  one.target = target;
  one.args = std::move(args);
  one.before = before_;
  one.origin = origin;
  const auto index = static_cast<uint32_t>(out_.plan.created.size());
  out_.plan.created.push_back(std::move(one));
  out_.values.push_back(std::move(value));
  out_.plan.edits.push_back({Edit::Kind::kCreate, index, kNone, kNone});
  return graph_.table().size() + index;
}

NodeRef PairWriter::create_fused(const FusedLayout& layout, const Arguments& given, NodeId origin,
                                 PairValue value) {
  std::vector<PlanArg> args;
  std::vector<std::pair<std::string, PlanArg>> kwargs;
  for (const FusedSlot& slot : layout.slots) {
    const auto found = given.find(slot.argument);
    PlanArg arg = found == given.end() ? PlanArg::given(slot.fallback) : found->second;
    if (slot.keyword.empty()) {
      args.push_back(std::move(arg));
    } else {
      kwargs.emplace_back(slot.keyword, std::move(arg));
    }
  }
  const NodeRef fused = create(layout.target, std::move(args), origin, std::move(value));
  out_.plan.created.back().kwargs = std::move(kwargs);
  return fused;
}

NodeRef PairWriter::reshape(NodeRef node, NodeId like, NodeId origin, PairValue value) {
  const auto sizes = graph_.dims(like);
  return create(new_targets().reshape, {PlanArg::of(node), PlanArg::sizes(listed(sizes))}, origin,
                std::move(value));
}

NodeRef PairWriter::item(NodeRef of, int64_t place, NodeId origin) {
  return create(new_targets().getitem, {PlanArg::of(of), PlanArg::integer(place)}, origin,
                {.kind = ValueKind::kPart, .of = of, .number = place});
}

void PairWriter::take_place(NodeId node, NodeRef now) {
  graph_.replace(node, now, before_);
  replaced_.push_back(node);
}

// Erases what has no reader any more. Other readers of what was replaced read what replaces it.
void PairWriter::settle(std::vector<NodeId> inside) {
  std::sort(inside.begin(), inside.end(), std::greater<>());
  inside.erase(std::unique(inside.begin(), inside.end()), inside.end());
  for (const NodeId node : inside) {
    if (graph_.is_gone(node)) continue;
    if (!graph_.is_replaced(node) && graph_.reader_count(node) != 0) continue;
    graph_.erase(node);
    erased_.push_back(node);
  }
  for (const NodeId node : replaced_) {
    for (const NodeId user : graph_.users(node)) {
      out_.plan.edits.push_back({Edit::Kind::kRewire, user, node, graph_.now(node)});
    }
  }
  replaced_.clear();
}

void PairWriter::note(NodeId collective, std::span<const Product> products, NodeRef fused) {
  PlannedPair pair;
  pair.collective = collective;
  for (const Product& one : products) pair.products.push_back(one.inside[0]);
  pair.fused = fused - graph_.table().size();
  out_.pairs.push_back(std::move(pair));
}

void PairWriter::finish() {
  std::sort(erased_.begin(), erased_.end(), std::greater<>());
  for (const NodeId node : erased_) {
    out_.plan.edits.push_back({Edit::Kind::kErase, node, kNone, kNone});
  }
}

}  // namespace spfast
