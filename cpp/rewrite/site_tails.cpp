#include "rewrite/site_tails.h"

#include <algorithm>

#include "base/work.h"
#include "rewrite/row_shapes.h"

namespace spfast {
namespace {

class Tail {
 public:
  Tail(const NodeTable& table, const RowRules& rules, int64_t stream, Site& site)
      : table_(table), rules_(rules), stream_(stream), site_(site), values_(site.interior.size()) {
    read();
  }

  // Walks back from the last value, from each value to the only one that it reads. It stops where
  // something else of the site reads that, too. What comes behind the narrowest value is dropped.
  void drop() {
    size_t kept = values_.size();
    int64_t least = values_.back().bytes;
    for (size_t at = values_.size() - 1; is_elementwise(at);) {
      const size_t source = values_[at].source;
      if (source + 1 != at) break;
      at = source;
      if (values_[at].bytes < least) {
        least = values_[at].bytes;
        kept = at + 1;
      }
      if (values_[at].readers != 1) break;
    }
    if (kept == values_.size()) return;
    const NodeId last = site_.interior[kept - 1];
    site_.interior.resize(kept);
    std::erase_if(site_.operands, [&](const SiteOperand& one) { return one.user > last; });
  }

 private:
  struct Width {
    int64_t bytes = 0;         // of an element
    size_t source = SIZE_MAX;  // the value of the site that it reads, if it is one alone
    size_t sources = 0;
    size_t readers = 0;
    bool buffer = false;
  };

  // The conversions alone tell how wide the elements are. So no meta need be read.
  void read() {
    auto operand = site_.operands.begin();
    for (size_t i = 0; i < values_.size(); ++i) {
      SPFAST_WORK(1);
      Width& value = values_[i];
      const NodeId node = site_.interior[i];
      for (; operand != site_.operands.end() && operand->user == node; ++operand) {
        value.buffer = value.buffer || operand->kind == SiteOperand::Kind::kBuffer;
        if (operand->kind != SiteOperand::Kind::kStream) continue;
        const size_t source = index_of(operand->root);
        value.bytes =
            std::max(value.bytes, source < values_.size() ? values_[source].bytes : stream_);
        ++value.sources;
        value.source = source;
        if (source < values_.size()) ++values_[source].readers;
      }
      if (const int64_t bytes = converted(node); bytes > 0) value.bytes = bytes;
      if (value.bytes == 0) value.bytes = stream_;  // a part of a tuple
    }
  }

  // SIZE_MAX for what was reduced.
  [[nodiscard]] size_t index_of(NodeId node) const {
    const auto& interior = site_.interior;
    const auto at = std::lower_bound(interior.begin(), interior.end(), node);
    return at != interior.end() && *at == node ? static_cast<size_t>(at - interior.begin())
                                               : SIZE_MAX;
  }

  // The bytes of an element of the type that a call names; 0 where it names none.
  [[nodiscard]] int64_t converted(NodeId node) const {
    Argument dtype = table_.kwarg(node, "dtype");
    for (const Argument arg : table_.args(node)) {
      if (arg.tag == Tag::kDtype) dtype = arg;
    }
    return dtype.tag == Tag::kDtype ? dtype_bytes(table_.string(dtype.payload)) : 0;
  }

  [[nodiscard]] bool is_elementwise(size_t at) const {
    const RowRule* rule = rules_.find(table_.target(site_.interior[at]));
    return rule != nullptr && rule->family == RowRule::Family::kPointwise &&
           values_[at].sources == 1 && !values_[at].buffer && values_[at].source < at;
  }

  const NodeTable& table_;
  const RowRules& rules_;
  int64_t stream_;  // bytes of an element of what is reduced
  Site& site_;
  std::vector<Width> values_;  // of the interior
};

}  // namespace

void drop_wide_tails(const NodeTable& table, const RowRules& rules, std::span<const Anchor> anchors,
                     Sites& sites) {
  for (Site& site : sites.sites) {
    if (site.match == kNone || !site.reason.empty() || site.interior.empty()) continue;
    const Meta& reduced = table.meta(anchors[site.anchor].all_reduce);
    Tail(table, rules, dtype_bytes(table.string(reduced.dtype)), site).drop();
  }
}

}  // namespace spfast
