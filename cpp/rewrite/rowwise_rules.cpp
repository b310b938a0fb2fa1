#include "rewrite/rowwise_rules.h"

#include "base/check.h"

namespace spfast {

void RowRules::add(TargetId target, RowRule rule) {
  if (target >= rules_.size()) rules_.resize(size_t{target} + 1);
  rules_[target] = std::move(rule);
}

RowRule::Family row_family(std::string_view name) {
  using Family = RowRule::Family;
  static constexpr std::pair<std::string_view, Family> kFamilies[] = {
      {"pointwise", Family::kPointwise}, {"reduce", Family::kReduce},
      {"along", Family::kAlong},         {"norm", Family::kNorm},
      {"view", Family::kView},           {"unsqueeze", Family::kUnsqueeze},
      {"squeeze", Family::kSqueeze},     {"expand", Family::kExpand},
      {"rows", Family::kRows},
  };
  for (const auto& [text, family] : kFamilies) {
    if (text == name) return family;
  }
  throw UserError("a row-wise operator has the unknown family '" + std::string(name) + "'");
}

}  // namespace spfast
