#include "rewrite/held_sites.h"

namespace spfast {

HeldSites::HeldSites(std::span<const HeldSite> held) {
  for (const HeldSite& one : held) {
    if (one.scatters) {
      by_anchor_.try_emplace(one.anchor, one.reason);
    } else {
      by_class_.try_emplace({one.tokens.raw, one.group}, one.reason);
    }
  }
}

void HeldSites::hold(Site& site) const {
  if (!site.reason.empty()) return;
  const auto known = by_anchor_.find(site.anchor);
  if (known != by_anchor_.end()) site.reason = known->second;
}

void HeldSites::hold_regions(Sites& sites) const {
  if (by_class_.empty()) return;
  for (Site& site : sites.sites) {
    if (site.scatters || !site.reason.empty()) continue;
    const TokenClass& shared = sites.classes[site.token_class];
    const auto known = by_class_.find({shared.tokens.raw, shared.group});
    if (known != by_class_.end()) site.reason = known->second;
  }
}

}  // namespace spfast
