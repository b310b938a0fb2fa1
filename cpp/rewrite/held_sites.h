// Sites that turned out to have to stay: their values cannot be made, or no plan can write their
// sizes. When sites are examined anew, these get their reasons.
#pragma once

#include <map>
#include <span>
#include <utility>

#include "rewrite/decided.h"
#include "rewrite/sites.h"

namespace spfast {

class HeldSites {
 public:
  explicit HeldSites(std::span<const HeldSite> held);
  // Gives a site its reason, if its all_reduce is held and it has none yet.
  void hold(Site& site) const;
  // The same for regions that were grown between all_reduces. No all_reduce tells such a region
  // from others, so it is known by its class.
  void hold_regions(Sites& sites) const;

 private:
  std::map<uint32_t, Reason> by_anchor_;
  std::map<std::pair<int64_t, uint32_t>, Reason> by_class_;  // tokens, group
};

}  // namespace spfast
