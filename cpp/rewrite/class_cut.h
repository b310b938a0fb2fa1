// The cheapest way to cut one class of tokens: which of its values are rows of one rank, and which
// are full.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "match/match.h"
#include "rewrite/cut_costs.h"
#include "rewrite/row_uses.h"
#include "rewrite/rowwise_rules.h"
#include "rewrite/sites.h"

namespace spfast {

// By node, of all classes.
struct CutNodes {
  enum class State : uint8_t {
    kFree,     // sharded or full, as the cut says
    kSharded,  // a value of a matched site: sharded as a whole, or not at all
    kReduced,  // of an all_reduce without a match
    kSum,      // over tokens: sharded, if one rank's part is computed and the parts are reduced
  };
  std::vector<State> state;
  std::vector<uint32_t> site_of;  // the site of a matched value
  std::vector<uint32_t> index;    // its number among the members of its class
};

class ClassCut {
 public:
  ClassCut(const NodeTable& table, const RowRules& rules, const MatchResult& matches,
           const Sites& sites, const RowUses& uses, CutCosts& costs, CutNodes& nodes)
      : table_(table),
        rules_(rules),
        matches_(matches),
        sites_(sites),
        layout_(sites.layout),
        uses_(uses),
        costs_(costs),
        nodes_(nodes) {}

  // Finds the cut of a class with these row-wise values and these sites. False: nothing is to be
  // decided, as all that is matched is sharded and pays.
  [[nodiscard]] bool run(uint32_t token_class, std::span<const NodeId> members,
                         std::span<const uint32_t> sites);
  // By member: whether it is sharded.
  [[nodiscard]] std::vector<bool>& sharded() { return sharded_; }
  // Values whose size was only guessed: with any, nothing is decided yet.
  [[nodiscard]] const std::vector<NodeId>& unsure() const { return unsure_; }
  // Matched sites of which a part alone is better sharded.
  [[nodiscard]] const std::vector<uint32_t>& costly() const { return costly_; }

 private:
  using State = CutNodes::State;
  struct Cut {
    std::vector<bool> sharded;
    int64_t cost = 0;
  };

  void find_gathered();
  [[nodiscard]] int64_t bytes_of(NodeId node);
  [[nodiscard]] bool each_site_pays(int64_t fixed);
  [[nodiscard]] Cut cheapest(int64_t fixed, std::span<const uint32_t> loose = {});
  [[nodiscard]] bool moves_more(const std::vector<bool>& sharded);
  [[nodiscard]] std::vector<uint32_t> loose_sites() const;
  void find_costly(int64_t fixed, int64_t cost);
  void keep_idle();

  const NodeTable& table_;
  const RowRules& rules_;
  const MatchResult& matches_;
  const Sites& sites_;
  const RowLayout& layout_;
  const RowUses& uses_;
  CutCosts& costs_;
  CutNodes& nodes_;
  uint32_t token_class_ = kNone;
  std::span<const NodeId> members_;
  std::span<const uint32_t> of_class_;
  std::vector<bool> gathered_;  // by member, if it is sharded
  std::vector<int64_t> spent_;  // by site: what its gathers cost
  std::vector<NodeId> unsure_;
  std::vector<bool> sharded_;
  std::vector<uint32_t> costly_;
};

}  // namespace spfast
