#include "rewrite/row_shapes.h"

#include <algorithm>

namespace spfast {

int64_t element_count(std::span<const Dim> dims) {
  int64_t count = 1;
  for (const Dim dim : dims) {
    if (dim.is_expr() || __builtin_mul_overflow(count, dim.raw, &count)) return -1;
  }
  return count;
}

int64_t dtype_bytes(std::string_view dtype) {
  const auto has = [&](const char* part) { return dtype.find(part) != std::string::npos; };
  if (has("complex128")) return 16;
  if (has("float8") || has("int8") || has("bool")) return 1;
  if (has("16") || has("half")) return 2;
  if (has("32") || has(".float") || has(".int")) return has("64") ? 8 : 4;
  return 8;
}

bool RowShapes::leads_like_example(std::span<const Dim> lead) const {
  return lead.size() + 1 == example_.size() &&
         std::equal(lead.begin(), lead.end(), example_.begin());
}

bool RowShapes::holds_tokens(const Meta& meta, size_t features) const {
  const auto dims = table_.dims(meta);
  if (dims.size() <= features) return false;
  const auto lead = dims.first(dims.size() - features);
  if (features == 1 && meta.tokens == tokens_) return true;
  if (lead.size() == 1 && lead[0] == tokens_) return true;
  if (leads_like_example(lead)) return true;
  return !tokens_.is_expr() && element_count(lead) == tokens_.raw;
}

uint32_t RowShapes::features_of_view(const Meta& from, size_t features, const Meta& to) const {
  const auto before = table_.dims(from);
  const auto after = table_.dims(to);
  const size_t lead = before.size() - features;
  const int64_t count = element_count(before.last(features));
  const auto fits = [&](size_t wanted) {
    return holds_tokens(to, wanted) && element_count(after.last(wanted)) == count;
  };
  // First as it was, then with the same leading dims, then with as few of them as hold the tokens.
  if (features < after.size() && fits(features)) return static_cast<uint32_t>(features);
  if (lead <= after.size() &&
      std::equal(after.begin(), after.begin() + static_cast<ptrdiff_t>(lead), before.begin()) &&
      element_count(after.subspan(lead)) == count) {
    return static_cast<uint32_t>(after.size() - lead);
  }
  for (size_t wanted = after.size(); wanted-- > 0;) {
    if (fits(wanted)) return static_cast<uint32_t>(wanted);
  }
  return kNone;
}

}  // namespace spfast
