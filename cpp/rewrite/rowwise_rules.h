// Which operators treat every token by itself. Python says it of each operator, as data.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "table/targets.h"

namespace spfast {

struct RowRule {
  enum class Family : uint8_t {
    kNone,
    kPointwise,  // tensors broadcast together
    kReduce,     // over the dims at `position`
    kAlong,      // along the dim at `position`: softmax, topk, split, cat
    kNorm,       // over as many last dims as the sizes at `position` are
    kView,       // the same elements in the same order, other sizes
    kUnsqueeze,  // a new dim of size 1 at `position`
    kSqueeze,    // takes the dim of size 1 at `position` away
    kExpand,     // repeats dims of size 1
    kRows,       // some operands have a row for each token, the others are the same for all
  };
  Family family = Family::kNone;
  int32_t position = 1;
  int64_t default_dim = 0;            // of an absent kAlong dim
  std::vector<int32_t> rows;          // kRows: positions of the operands that have rows
  std::vector<std::string> keywords;  // and their keywords
  std::vector<std::string> buffers;   // keywords of operands that are written to and have rows
  // kRows: if one of the arguments `block_if` is true, a result is laid out in blocks of `block`
  // tokens.
  int64_t block = 1;
  std::vector<int32_t> block_if;
  std::vector<std::string> block_if_keywords;
  // kRows: the keyword that gives the group sizes of a quantisation. The first size counts tokens.
  // It has to be -1, which is one group of all tokens, or there must be no groups.
  std::string groups;
};

class RowRules {
 public:
  void add(TargetId target, RowRule rule);
  // Null for an operator that may need all tokens.
  [[nodiscard]] const RowRule* find(TargetId target) const {
    return target < rules_.size() && rules_[target].family != RowRule::Family::kNone
               ? &rules_[target]
               : nullptr;
  }
  [[nodiscard]] bool empty() const { return rules_.empty(); }
  // Whether an operator whose result is a quantised value is followed.
  [[nodiscard]] bool quantised() const { return quantised_; }
  void set_quantised(bool quantised) { quantised_ = quantised; }

 private:
  std::vector<RowRule> rules_;  // by target
  bool quantised_ = true;
};

// Raises UserError if no family has this name.
[[nodiscard]] RowRule::Family row_family(std::string_view name);

}  // namespace spfast
