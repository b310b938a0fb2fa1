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

// The meta of a value that a proof rests on; absent when it has to be read first, or when there is
// none to read.
[[nodiscard]] const Meta* known_meta(const NodeTable& table, NodeId node, Site& site,
                                     std::vector<NodeId>& missing);

// An empty tensor with a row for each token, which can be made with fewer: by its sizes, or like a
// value that `may_follow`.
[[nodiscard]] bool is_fresh_buffer(const NodeTable& table, NodeId node, const Meta& meta,
                                   Dim tokens, const std::function<bool(NodeId)>& may_follow);

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
