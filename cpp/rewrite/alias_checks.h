// Whether a value may be read in place of its aliases: the views and copies of it.
#pragma once

#include <functional>
#include <map>
#include <tuple>
#include <vector>

#include "match/look_through.h"
#include "rewrite/effects.h"
#include "rewrite/sites.h"

namespace spfast {

class AliasChecks {
 public:
  AliasChecks(const NodeTable& table, const Effects& effects, std::vector<NodeId>& missing)
      : table_(table), effects_(effects), missing_(missing) {}
  // Looking through aliases is right only if each keeps rows whole and nobody writes to any; gives
  // the site its reason otherwise. Many sites may read one long chain of aliases: each alias is
  // looked at once.
  void check(Site& site, NodeId alias, NodeId root, const LookThrough& look);

 private:
  void check_one(Site& site, NodeId alias, NodeId root, const LookThrough& look);
  [[nodiscard]] bool same_size(const Meta& a, const Meta& b) const;

  const NodeTable& table_;
  const Effects& effects_;
  std::vector<NodeId>& missing_;
  std::map<std::tuple<int64_t, NodeId, NodeId>, Reason> checked_;  // by width, root and alias
};

}  // namespace spfast
