// Arithmetic on sizes: how many tokens the leading dims of a value hold.
#pragma once

#include <span>
#include <string_view>

#include "table/node_table.h"

namespace spfast {

class RowShapes {
 public:
  // `example` is a value whose leading dims hold all tokens of the class.
  RowShapes(const NodeTable& table, Dim tokens, NodeId example)
      : table_(table), tokens_(tokens), example_(table.dims(table.meta(example))) {}

  // Whether all dims but the last `features` hold exactly the tokens.
  [[nodiscard]] bool holds_tokens(const Meta& meta, size_t features) const;
  // How many last dims of a view are features. It views a value whose last `features` dims are.
  // kNone if some dim of the view holds both tokens and features.
  [[nodiscard]] uint32_t features_of_view(const Meta& from, size_t features, const Meta& to) const;

 private:
  [[nodiscard]] bool leads_like_example(std::span<const Dim> lead) const;

  const NodeTable& table_;
  Dim tokens_;
  std::span<const Dim> example_;
};

// The product of sizes; -1 if one is symbolic or it is too large to be counted.
[[nodiscard]] int64_t element_count(std::span<const Dim> dims);
// Bytes of one element of a dtype such as "torch.bfloat16"; 8 for one that is not known.
[[nodiscard]] int64_t dtype_bytes(std::string_view dtype);

}  // namespace spfast
