#include "rewrite/token_sums.h"

#include <algorithm>

#include "base/work.h"
#include "rewrite/row_shapes.h"
#include "table/targets.h"

namespace spfast {
namespace {

class Finder {
 public:
  Finder(const NodeTable& table, const MatchResult& matches, const Effects& effects, Sites& sites)
      : table_(table), matches_(matches), effects_(effects), layout_(sites.layout) {
    anchors_.assign(sites.classes.size(), kNone);
    for (const Site& site : sites.sites) {
      // A part of a sum must not count rows that were added.
      const bool sums = site.reason.empty() && !sites.classes[site.token_class].padded &&
                        is_sum(matches_.anchors[site.anchor]);
      if (sums && anchors_[site.token_class] == kNone) anchors_[site.token_class] = site.anchor;
    }
  }

  void run() {
    static const TargetId kSum = intern_target("aten.sum.dim_IntList");
    layout_.sums.clear();
    for (NodeId node = 0; node < table_.size(); ++node) {
      // Behind a stream change nothing is known of what is read.
      if ((table_.flags(node) & target_flag::kFence) != 0) return;
      if (table_.op(node) != Op::kCallFunction || table_.target(node) != kSum) continue;
      SPFAST_WORK(1);
      examine(node);
    }
  }

 private:
  [[nodiscard]] bool is_sum(const Anchor& anchor) const {
    if (anchor.reduce_op.tag == Tag::kAbsent) return true;
    return anchor.reduce_op.tag == Tag::kString && table_.string(anchor.reduce_op.payload) == "sum";
  }

  void examine(NodeId node) {
    const auto args = table_.args(node);
    if (args.size() < 2 || !args[0].is_node() || !is_sequence(args[1].tag)) return;
    for (const char* keyword : {"dim", "keepdim", "dtype"}) {
      if (table_.kwarg(node, keyword).tag != Tag::kAbsent) return;
    }
    const NodeId alias = args[0].payload;
    const NodeId root = layout_.root(alias);
    if (!layout_.is_row(root) || anchors_[layout_.token_class[root]] == kNone) return;
    const Meta& from = table_.meta(alias);
    const Meta& to = table_.meta(node);
    if (from.kind != MetaKind::kTensor || to.kind != MetaKind::kTensor) return;
    // A sum of whole numbers or booleans is of another dtype.
    if (from.dtype != to.dtype || table_.users(node).empty()) return;
    if (effects_.writer_of(node) != kNone) return;
    const uint8_t features = layout_.features[root];
    const auto dims = table_.dims(from);
    if (dims.size() <= features || !is_over(args[1], dims.size(), dims.size() - features)) return;
    // The result lies in memory as the rows of the operand do. With one dim that makes no
    // difference.
    if (features != 1 && !table_.strides(from).empty()) return;
    if (element_count(dims.last(features)) <= 0) return;
    const uint32_t one = layout_.token_class[root];
    layout_.sums.push_back({node, alias, root, one, anchors_[one], features});
  }

  // Whether the dims are the leading ones, each once.
  [[nodiscard]] bool is_over(Argument list, size_t rank, size_t lead) const {
    std::vector<bool> over(rank, false);
    for (const Argument item : table_.items(list)) {
      if (item.tag != Tag::kInt) return false;
      const int64_t dim = table_.as_int(item);
      const int64_t at = dim < 0 ? dim + static_cast<int64_t>(rank) : dim;
      if (at < 0 || at >= static_cast<int64_t>(lead)) return false;
      over[static_cast<size_t>(at)] = true;
    }
    return static_cast<size_t>(std::count(over.begin(), over.end(), true)) == lead;
  }

  const NodeTable& table_;
  const MatchResult& matches_;
  const Effects& effects_;
  RowLayout& layout_;
  std::vector<uint32_t> anchors_;  // by token class: an all_reduce that sums
};

}  // namespace

void find_token_sums(const NodeTable& table, const MatchResult& matches, const Effects& effects,
                     Sites& sites) {
  Finder(table, matches, effects, sites).run();
}

}  // namespace spfast
