#include "rewrite/stride_checks.h"

#include <vector>

#include "base/work.h"
#include "rewrite/known_meta.h"

namespace spfast {
namespace {

class StrideChecks {
 public:
  StrideChecks(const NodeTable& table, const MatchResult& matches, const Layouts& layouts,
               Sites& sites)
      : table_(table), matches_(matches), layouts_(layouts), sites_(sites) {}

  void run() {
    for (size_t i = sites_.sites.size(); i-- > 0;) {  // later sites first: they read earlier ones
      Site& site = sites_.sites[i];
      if (!site.strided || !site.reason.empty()) continue;
      if (local_.empty()) find_local();
      const Anchor& anchor = matches_.anchors[site.anchor];
      width_ = table_.dims(table_.meta(anchor.all_reduce)).back().raw;
      check_readers(site, anchor.reduced);
      for (const NodeId node : site.interior) check_readers(site, node);
      if (site.reason.empty()) continue;
      for (const NodeId node : site.interior) local_[node] = false;
    }
  }

 private:
  void find_local() {
    local_.resize(table_.size(), false);
    for (const Site& site : sites_.sites) {
      if (!site.reason.empty()) continue;
      for (const NodeId node : site.interior) local_[node] = true;
    }
  }

  void check_readers(Site& site, NodeId value) {
    std::vector<NodeId> aliases{value};
    for (size_t i = 0; i < aliases.size(); ++i) {
      if (!site.reason.empty()) return;
      if (known_meta(table_, aliases[i], site, sites_.missing) == nullptr) return;
      for (const NodeId user : table_.users(aliases[i])) {
        SPFAST_WORK(1);
        if (local_[user]) continue;
        if (LookThrough::source(table_, user, width_) == aliases[i]) {
          aliases.push_back(user);
        } else if (!layouts_.may_read_fresh(user, aliases[i])) {
          site.reason = {Reason::Kind::kStrides, user, aliases[i], 0, 0};
          return;
        }
      }
    }
  }

  const NodeTable& table_;
  const MatchResult& matches_;
  const Layouts& layouts_;
  Sites& sites_;
  std::vector<bool> local_;  // by node: reads shards
  int64_t width_ = 0;
};

}  // namespace

void check_strides(const NodeTable& table, const MatchResult& matches, const Layouts& layouts,
                   Sites& sites) {
  StrideChecks(table, matches, layouts, sites).run();
}

}  // namespace spfast
