#include "match/finder.h"

#include <algorithm>
#include <utility>

#include "match/choice.h"
#include "match/machine.h"

namespace spfast {
namespace {

Anchor anchor_at(const NodeTable& table, NodeId node, const AllReduceFamily& family) {
  Anchor anchor;
  anchor.all_reduce = node;
  anchor.family = family.id;
  const auto args = table.args(node);
  const auto at = [&](int32_t position) {
    return position >= 0 && static_cast<size_t>(position) < args.size() ? args[position] : Value{};
  };
  anchor.group = at(family.group);
  anchor.reduce_op = at(family.reduce_op);
  if (family.wait == kNone) {
    anchor.reduced = node;
  } else if (table.users(node).size() == 1) {
    const NodeId user = table.users(node)[0];
    if (table.op(user) == Op::kCallFunction && table.target(user) == family.wait) {
      anchor.reduced = user;
    }
  }
  return anchor;
}

}  // namespace

std::vector<Anchor> find_anchors(const NodeTable& table,
                                 std::span<const AllReduceFamily> families) {
  std::vector<Anchor> anchors;
  for (NodeId node = 0; node < table.size(); ++node) {
    for (const AllReduceFamily& family : families) {
      if (table.target(node) == family.all_reduce && table.op(node) == Op::kCallFunction) {
        anchors.push_back(anchor_at(table, node, family));
      }
    }
  }
  return anchors;
}

MatchResult find_matches(const NodeTable& table, const ProgramSet& programs,
                         std::span<const AllReduceFamily> families) {
  MatchResult result;
  result.anchors = find_anchors(table, families);
  result.reports.resize(result.anchors.size());
  if (result.anchors.empty()) return result;
  result.roots = NameRoots(table);
  Machine machine(table, programs);
  Choice choice(table, programs);
  std::vector<bool> claimed(table.size(), false);
  std::vector<Match> found;
  for (auto index = static_cast<uint32_t>(result.anchors.size()); index-- > 0;) {
    const Anchor& anchor = result.anchors[index];
    AnchorReport& report = result.reports[index];
    if (anchor.group.tag == Tag::kAbsent || !table.args(anchor.all_reduce)[0].is_node()) {
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
    if (meta.kind != MetaKind::kTensor || dims.size() < 2 || dims.back().is_expr()) {
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
