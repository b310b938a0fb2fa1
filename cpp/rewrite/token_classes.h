// The token classes of a graph's sites: which values are sharded alike.
#pragma once

#include <map>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "rewrite/decided.h"
#include "rewrite/group_info.h"
#include "rewrite/sites.h"

namespace spfast {

class TokenClasses {
 public:
  // Classes are appended to `classes` as sites of them are seen.
  TokenClasses(const NodeTable& table, std::span<const GroupInfo> groups,
               std::span<const JudgedClass> judged, std::vector<TokenClass>& classes);
  // Puts a site into its class. Returns false, and gives the site its reason, if its tokens cannot
  // be shared.
  bool find(Site& site, const Anchor& anchor);

 private:
  using Key = std::pair<int64_t, uint32_t>;  // tokens, group

  const NodeTable& table_;
  std::span<const GroupInfo> groups_;
  std::vector<TokenClass>& classes_;
  std::unordered_map<uint64_t, uint32_t> group_ids_;
  std::map<Key, uint32_t> ids_;
  std::map<Key, const Verdict*> verdicts_;
};

}  // namespace spfast
