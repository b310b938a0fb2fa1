#include "rewrite/uses.h"

#include <algorithm>

#include "base/work.h"

namespace spfast {
namespace {

// A user that reads at least so many values is looked up in a map. The operands of others are
// searched.
constexpr uint32_t kFew = 8;

// Operands stand in the order of their users.
auto operands_of(const Site& site, NodeId user) {
  const auto& all = site.operands;
  const auto begin = std::lower_bound(
      all.begin(), all.end(), user,
      [](const SiteOperand& operand, NodeId wanted) { return operand.user < wanted; });
  const auto end = std::upper_bound(
      begin, all.end(), user,
      [](NodeId wanted, const SiteOperand& operand) { return wanted < operand.user; });
  return std::pair{begin, end};
}

}  // namespace

Uses::Uses(const PlanBuilder& builder)
    : builder_(builder), table_(builder.table), sites_(builder.sites) {
  for (const Site& site : sites_.sites) {
    if (!site.reason.empty()) continue;
    find_buffer_uses(site);
    find_wide_users(site);
  }
}

Use Uses::use_of(NodeId user, NodeId alias) const {
  if (const uint32_t index = builder_.site_of[user]; index != kNone) {
    const Site& site = sites_.sites[index];
    const auto [begin, end] = operands_of(site, user);
    uint32_t looked_at = 0;
    for (auto at = begin; at != end; ++at) {
      SPFAST_WORK(1);
      if (at->alias == alias) return use_of(site, *at);
      if (++looked_at < kFew) continue;
      const auto known = wide_.find(pair_key(user, alias));
      if (known == wide_.end()) break;
      return use_of(site, site.operands[known->second]);
    }
  }
  const bool rows = buffer_uses_.contains(pair_key(user, alias)) || leaves_as_rows(user, alias);
  return rows ? Use::kLocal : Use::kFull;
}

bool Uses::leaves_as_rows(NodeId user, NodeId alias) const {
  if (sites_.local_outputs.empty()) return false;
  return builder_.site_of[alias] != kNone && sites_.leaves_as_rows(user, alias);
}

Use Uses::use_of(const Site& site, const SiteOperand& operand) const {
  if (operand.kind == SiteOperand::Kind::kBuffer) return Use::kFull;
  if (operand.kind == SiteOperand::Kind::kStream) return Use::kLocal;
  return builder_.is_local_for(site, operand.root) ? Use::kLocal : Use::kSliced;
}

void Uses::find_wide_users(const Site& site) {
  const auto& operands = site.operands;
  for (uint32_t i = kFew; i < operands.size(); ++i) {
    if (operands[i].user != operands[i - kFew].user) continue;
    wide_.try_emplace(pair_key(operands[i].user, operands[i].alias), i);
  }
}

bool Uses::only_fills(NodeId user, NodeId buffer) const {
  if (builder_.site_of[user] == kNone) return false;
  const auto [begin, end] = operands_of(sites_.sites[builder_.site_of[user]], user);
  return std::any_of(begin, end, [&](const SiteOperand& operand) {
    return operand.kind == SiteOperand::Kind::kBuffer && operand.alias == buffer;
  });
}

// empty_like(a value of the stream) is made anew, like the shard; the old one stays as it is
// where others read it too.
void Uses::find_buffer_uses(const Site& site) {
  for (const SiteOperand& operand : site.operands) {
    if (operand.kind != SiteOperand::Kind::kBuffer) continue;
    const auto args = table_.args(operand.alias);
    const auto users = table_.users(operand.alias);
    const bool goes = std::all_of(users.begin(), users.end(),
                                  [&](NodeId user) { return only_fills(user, operand.alias); });
    if (args[0].is_node() && goes) buffer_uses_.insert(pair_key(operand.alias, args[0].payload));
  }
}

}  // namespace spfast
