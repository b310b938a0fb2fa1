// Reads the operands of row-wise operators: which have rows, and which are the same for every
// token.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "rewrite/effects.h"
#include "rewrite/replication.h"
#include "rewrite/row_layout.h"
#include "rewrite/row_shapes.h"
#include "rewrite/rowwise_rules.h"
#include "rewrite/sites.h"
#include "rewrite/size_sources.h"

namespace spfast {

// How one operand of a row-wise operator is read.
enum class RowRole : uint8_t {
  kNone,      // not a tensor, or the same for every token
  kRows,      // a row for each token: sharded, or cut from the full value
  kSame,      // the same for every token, in more leading dims than a shard has
  kSpread,    // a row for several tokens: broadcast to all, then cut
  kBuffer,    // written to, a row for each token
  kNeedsAll,  // neither
};
struct RowOperand {
  NodeId alias = kNone;
  NodeId root = kNone;
  RowRole role = RowRole::kNone;
};

// Reads the operands of operators on which the layout was grown.
class RowReader {
 public:
  RowReader(const NodeTable& table, const RowRules& rules, const Effects& effects,
            const Replication& replication, std::span<const TokenClass> classes);
  // The operands of a node that a rule covers, each once; empty if some operand makes the node need
  // all tokens, or none is row-wise. `features` and `token_class` are those of its row-wise
  // operands.
  [[nodiscard]] const std::vector<RowOperand>& read(NodeId node, const RowLayout& layout);
  [[nodiscard]] uint32_t features() const { return features_; }
  [[nodiscard]] uint32_t token_class() const { return class_; }
  // Whether the node could be of another class as well.
  [[nodiscard]] bool contested() const { return contested_; }
  // Why the node that was read last needs all tokens; empty where it is no question of operands.
  [[nodiscard]] const Reason& why() const { return why_; }
  // The leading dims of a value, all but its last `features`, can be written down for a flattened
  // one: at most one of them is left over of the rest, or each is known elsewhere.
  [[nodiscard]] bool can_restore(NodeId node, const Meta& meta, size_t features);
  // A size was looked for in vain, and values that may tell it are not known yet.
  [[nodiscard]] bool wants_sizes() const { return wants_sizes_; }
  void want_sizes(std::vector<NodeId>& missing) const { sources_.want(missing); }
  [[nodiscard]] const RowShapes& shapes() const { return shapes_.at(class_); }

 private:
  [[nodiscard]] RowRole role_of(NodeId node, const RowRule& rule, const RowOperand& operand,
                                const RowLayout& layout);
  [[nodiscard]] RowRole tensor_role(NodeId node, const RowOperand& operand,
                                    const RowLayout& layout);
  [[nodiscard]] bool spreads(NodeId node, std::span<const Dim> lead);
  [[nodiscard]] Reason reason_for(NodeId node, const RowOperand& operand, const RowLayout& layout,
                                  const RowRule& rule) const;
  [[nodiscard]] bool is_row_here(NodeId node, NodeId root, const RowLayout& layout) const;
  [[nodiscard]] bool named(NodeId node, const std::vector<std::string>& keywords,
                           NodeId alias) const;
  [[nodiscard]] bool is_written(NodeId node, const RowRule& rule, NodeId alias) const;
  [[nodiscard]] bool groups_tokens(NodeId node, const RowRule& rule) const;
  [[nodiscard]] bool cuts_blocks(NodeId node, const RowRule& rule) const;
  [[nodiscard]] bool is_buffer(NodeId alias, const RowLayout& layout) const;

  const NodeTable& table_;
  const RowRules& rules_;
  const Effects& effects_;
  const Replication& replication_;
  std::span<const TokenClass> classes_;
  SizeSources sources_;
  std::vector<RowShapes> shapes_;  // by token class
  std::vector<uint32_t> streams_;  // by node: stream changes before it; empty: none at all
  std::vector<RowOperand> operands_;
  std::vector<uint32_t> read_by_;  // by node: the call of read() that met it last
  uint32_t reads_ = 0;
  uint32_t features_ = 1;
  uint32_t class_ = kNone;
  bool contested_ = false;
  Reason why_;
  bool wants_sizes_ = false;
};

}  // namespace spfast
