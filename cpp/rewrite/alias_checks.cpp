#include "rewrite/alias_checks.h"

#include <algorithm>

#include "base/check.h"
#include "base/work.h"
#include "rewrite/known_meta.h"
#include "table/targets.h"

namespace spfast {

void AliasChecks::check(Site& site, NodeId alias, NodeId root, const LookThrough& look) {
  if (alias == root) return;
  site.views = true;
  const auto key = [&](NodeId at) { return std::tuple{look.width(), root, at}; };
  NodeId end = alias;
  for (; end != root; end = LookThrough::source(table_, end, look.width())) {
    SPFAST_WORK(1);
    if (const auto known = checked_.find(key(end)); known != checked_.end()) {
      site.reason = known->second;
      break;
    }
    check_one(site, end, root, look);
    if (!site.reason.empty()) break;
  }
  for (NodeId at = alias; at != end; at = LookThrough::source(table_, at, look.width())) {
    checked_.emplace(key(at), site.reason);
  }
}

void AliasChecks::check_one(Site& site, NodeId alias, NodeId root, const LookThrough& look) {
  const NodeId source = LookThrough::source(table_, alias, look.width());
  SPFAST_CHECK(source != kNone);
  // A copy keeps what its source held: the source must not have been written to either.
  for (const NodeId value : {root, alias}) {
    const NodeId writer = effects_.writer_of(value);
    if (writer != kNone) site.reason = {Reason::Kind::kWritten, value, writer, 0, 0};
  }
  const uint8_t flags = table_.flags(alias);
  if ((flags & target_flag::kView) != 0 && look.plain_root(source) == root) {
    const Meta* meta = known_meta(table_, root, site, missing_);
    if (meta != nullptr) {
      const auto dims = table_.dims(*meta);
      if (dims.empty() || dims.back() != Dim::of(look.width())) {
        site.reason = {Reason::Kind::kReshaped, alias, root, 0, 0};
      }
    }
  }
  if ((flags & target_flag::kCopy) != 0) {
    const Meta* to = known_meta(table_, alias, site, missing_);
    const Meta* from = known_meta(table_, source, site, missing_);
    if (to != nullptr && from != nullptr && !same_size(*to, *from)) {
      site.reason = {Reason::Kind::kCopied, alias, kNone, 0, 0};
    }
  }
}

bool AliasChecks::same_size(const Meta& a, const Meta& b) const {
  const auto x = table_.dims(a);
  const auto y = table_.dims(b);
  return a.dtype == b.dtype && std::equal(x.begin(), x.end(), y.begin(), y.end());
}

}  // namespace spfast
