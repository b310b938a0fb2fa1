#include "rewrite/uses.h"

#include <algorithm>

namespace spfast {

Uses::Uses(const Draft& draft) : draft_(draft), table_(draft.table), sites_(draft.sites) {
  for (const Site& site : sites_.sites) {
    if (site.reason.empty()) find_buffer_uses(site);
  }
}

Use Uses::use_of(NodeId user, NodeId name) const {
  if (const uint32_t index = draft_.site_of[user]; index != kNone) {
    const Site& site = sites_.sites[index];
    // Operands stand in the order of their users.
    auto at = std::lower_bound(
        site.operands.begin(), site.operands.end(), user,
        [](const SiteOperand& operand, NodeId wanted) { return operand.user < wanted; });
    for (; at != site.operands.end() && at->user == user; ++at) {
      const SiteOperand& operand = *at;
      if (operand.name != name) continue;
      if (operand.kind == SiteOperand::Kind::kBuffer) return Use::kFull;
      if (operand.kind == SiteOperand::Kind::kStream) return Use::kLocal;
      return draft_.is_local_for(site, operand.root) ? Use::kLocal : Use::kSliced;
    }
  }
  return buffer_uses_.contains(pair_key(user, name)) ? Use::kLocal : Use::kFull;
}

bool Uses::only_fills(NodeId user, NodeId buffer) const {
  if (draft_.site_of[user] == kNone) return false;
  const auto& operands = sites_.sites[draft_.site_of[user]].operands;
  return std::any_of(operands.begin(), operands.end(), [&](const SiteOperand& operand) {
    return operand.kind == SiteOperand::Kind::kBuffer && operand.user == user &&
           operand.name == buffer;
  });
}

// empty_like(a value of the stream) is made anew, like the shard; the old one stays as it is
// where others read it too.
void Uses::find_buffer_uses(const Site& site) {
  for (const SiteOperand& operand : site.operands) {
    if (operand.kind != SiteOperand::Kind::kBuffer) continue;
    const auto args = table_.args(operand.name);
    const auto users = table_.users(operand.name);
    const bool goes = std::all_of(users.begin(), users.end(),
                                  [&](NodeId user) { return only_fills(user, operand.name); });
    if (args[0].is_node() && goes) buffer_uses_.insert(pair_key(operand.name, args[0].payload));
  }
}

}  // namespace spfast
