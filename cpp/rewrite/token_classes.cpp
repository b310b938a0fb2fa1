#include "rewrite/token_classes.h"

#include "base/check.h"
#include "base/work.h"

namespace spfast {

TokenClasses::TokenClasses(const NodeTable& table, std::span<const GroupInfo> groups,
                           std::span<const JudgedClass> judged, std::vector<TokenClass>& classes)
    : table_(table), groups_(groups), classes_(classes) {
  for (uint32_t i = 0; i < groups.size(); ++i) group_ids_.emplace(argument_key(groups[i].group), i);
  for (const JudgedClass& one : judged) verdicts_[{one.tokens.raw, one.group}] = &one.verdict;
}

bool TokenClasses::find(Site& site, const Anchor& anchor) {
  const auto known_group = group_ids_.find(argument_key(anchor.group));
  SPFAST_CHECK(known_group != group_ids_.end());
  const uint32_t group_index = known_group->second;
  const GroupInfo& group = groups_[group_index];
  SPFAST_WORK(1);
  if (!group.problem.empty()) {
    site.reason = {Reason::Kind::kGroup, kNone, kNone, group_index, 0};
    return false;
  }
  const Dim tokens = table_.meta(anchor.all_reduce).tokens;
  const Key key{tokens.raw, group_index};
  const auto [place, fresh] = ids_.try_emplace(key, static_cast<uint32_t>(classes_.size()));
  site.token_class = place->second;
  if (fresh) {
    const auto known = verdicts_.find(key);
    const Verdict verdict = known == verdicts_.end() ? Verdict{} : *known->second;
    classes_.push_back(
        {tokens, group_index, group.size, anchor.all_reduce, verdict.refused, verdict.padded});
  }
  const TokenClass& shared = classes_[site.token_class];
  if (!shared.refused.empty()) {
    site.reason = {Reason::Kind::kRefusedClass, kNone, kNone, site.token_class, 0};
    return false;
  }
  const bool even = tokens.is_expr() || tokens.raw % group.size == 0;
  if ((!even && !shared.padded) || tokens == Dim::of(0)) {
    site.reason = {Reason::Kind::kIndivisible, kNone, kNone, static_cast<uint64_t>(tokens.raw),
                   group_index};
    return false;
  }
  return true;
}

}  // namespace spfast
