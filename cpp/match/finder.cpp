#include "match/finder.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "match/choice.h"
#include "match/machine.h"

namespace spfast {
namespace {

Anchor anchor_at(const NodeTable& table, NodeId call, const AllReduceFamily& family) {
  Anchor anchor;
  anchor.call = call;
  anchor.all_reduce = call;
  anchor.family = family.id;
  const auto args = table.args(call);
  const auto at = [&](int32_t position) {
    return static_cast<size_t>(position) < args.size() ? args[static_cast<size_t>(position)]
                                                       : Argument{};
  };
  anchor.group = family.group >= 0 ? at(family.group) : kUnnamedGroup;
  if (family.reduce_op >= 0) anchor.reduce_op = at(family.reduce_op);
  const bool complete = family.reduce_op < 0 || anchor.reduce_op.tag != Tag::kAbsent;
  if (complete && !args.empty() && args[0].is_node()) anchor.input = args[0].payload;
  return anchor;
}

void find_reduced(const NodeTable& table, const AllReduceFamily& family, Anchor& anchor) {
  const NodeId node = anchor.all_reduce;
  if (family.wait == kNone) {
    anchor.reduced = node;
  } else if (table.users(node).size() == 1) {
    const NodeId user = table.users(node)[0];
    if (table.op(user) == Op::kCallFunction && table.target(user) == family.wait) {
      anchor.reduced = user;
    }
  }
}

// Each tensor of the call that somebody takes from its result.
void add_parts(const NodeTable& table, NodeId call, const AllReduceFamily& family,
               std::vector<Anchor>& anchors) {
  const auto args = table.args(call);
  SPFAST_CHECK(!args.empty() && is_sequence(args[0].tag));
  const auto inputs = table.items(args[0]);
  for (const NodeId part : table.users(call)) {
    SPFAST_CHECK(table.whole_of(part) == call);
    const auto index = static_cast<size_t>(table.as_int(table.args(part)[1]));
    SPFAST_CHECK(index < inputs.size() && inputs[index].is_node());
    Anchor anchor = anchor_at(table, call, family);
    anchor.all_reduce = part;
    anchor.input = inputs[index].payload;
    find_reduced(table, family, anchor);
    anchors.push_back(anchor);
  }
}

}  // namespace

std::vector<Anchor> find_anchors(const NodeTable& table, std::span<const AllReduceFamily> families,
                                 std::span<const NodeId> listed) {
  using Form = AllReduceFamily::Form;
  std::vector<Anchor> anchors;
  for (NodeId node = 0; node < table.size(); ++node) {
    for (const AllReduceFamily& family : families) {
      if (table.target(node) != family.all_reduce || table.op(node) != Op::kCallFunction) continue;
      const bool counts =
          family.form == Form::kPlain || std::binary_search(listed.begin(), listed.end(), node);
      if (!counts) continue;
      if (family.form == Form::kCoalesced) {
        add_parts(table, node, family, anchors);
        continue;
      }
      Anchor anchor = anchor_at(table, node, family);
      find_reduced(table, family, anchor);
      anchors.push_back(anchor);
    }
  }
  // Parts stand behind their call, among other all_reduces.
  std::sort(anchors.begin(), anchors.end(),
            [](const Anchor& a, const Anchor& b) { return a.all_reduce < b.all_reduce; });
  return anchors;
}

MatchResult find_matches(const NodeTable& table, const ProgramSet& programs,
                         std::span<const AllReduceFamily> families,
                         std::span<const NodeId> listed) {
  MatchResult result;
  result.anchors = find_anchors(table, families, listed);
  result.reports.resize(result.anchors.size());
  if (result.anchors.empty()) return result;
  result.roots = AliasRoots(table);
  Machine machine(table, programs);
  Choice choice(table, programs);
  std::vector<bool> claimed(table.size(), false);
  std::vector<Match> found;
  for (auto index = static_cast<uint32_t>(result.anchors.size()); index-- > 0;) {
    const Anchor& anchor = result.anchors[index];
    AnchorReport& report = result.reports[index];
    if (anchor.group.tag == Tag::kAbsent || anchor.input == kNone) {
      report.outcome = Outcome::kKeywords;
      continue;
    }
    if (!is_group(anchor.group)) {
      report.outcome = Outcome::kGroup;
      continue;
    }
    if (anchor.reduced == kNone) {
      report.outcome = Outcome::kNoWait;
      continue;
    }
    const Meta& meta = table.meta(anchor.all_reduce);
    const auto dims = table.dims(meta);
    // A symbolic width will do, as long as no sizes are computed from it.
    const bool has_width = dims.size() == 2 || (dims.size() > 2 && !dims.back().is_expr());
    if (meta.kind != MetaKind::kTensor || !has_width) {
      report.outcome = Outcome::kUnknownSize;
      continue;
    }
    const int64_t width = dims.back().raw;
    found.clear();
    machine.run(result.look(width), anchor, index, static_cast<uint32_t>(dims.size()), found,
                report.failure);
    if (machine.gave_up()) {
      report.outcome = Outcome::kTooMany;
      continue;
    }
    const uint32_t best = choice.best(found, result.look(width), claimed);
    if (best == kNone) {
      report.outcome = found.empty() ? Outcome::kNoMatch : Outcome::kClaimed;
      continue;
    }
    report.outcome = Outcome::kMatched;
    for (const NodeId node : found[best].operations) claimed[node] = true;
    for (const uint32_t part : choice.parts(found, best)) {
      result.shorter.push_back(std::move(found[part]));
    }
    result.matches.push_back(std::move(found[best]));
  }
  std::reverse(result.matches.begin(), result.matches.end());
  std::reverse(result.shorter.begin(), result.shorter.end());
  for (uint32_t i = 0; i < result.matches.size(); ++i) {
    result.reports[result.matches[i].anchor].match = i;
  }
  return result;
}

}  // namespace spfast
