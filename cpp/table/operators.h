// What an operator is, told from its name alone: whether it is a collective, say, or whether equal
// operands give every rank the same result. So a table from a file says the same as a live graph
// does.
#pragma once

#include <cstdint>
#include <string_view>

#include "table/node_table.h"

namespace spfast {

enum class Collective : uint8_t {
  kNone,
  kAllReduce,
  kAllGather,
  kReduceScatter,
  kAllToAll,
  kOther,  // broadcast, scatter, permute, and whatever else a group does together
};

// How an operator says which part of its operand it takes, along one dim.
enum class PartBy : uint8_t {
  kNone,
  kSlice,   // from, to, and by which step
  kNarrow,  // from, and how many
  kSelect,  // which one
  kSplit,   // into several, of which getitem picks
  kUnbind,  // into each
  kIndex,   // by what another operand holds
};

struct OperatorTraits {
  Collective collective = Collective::kNone;
  bool deterministic = false;  // ranks with the same operands get the same result
  bool sizes = false;          // reads how its operand lies, not what it holds
  bool number = false;         // a size, or computes numbers from numbers, as Python's own do
  bool data_sized = false;     // the size of the result depends on what the operands hold
  bool rank = false;           // tells the ranks apart
  bool condition = false;      // says of each element whether something holds
  int8_t selects_by = -1;      // position of the condition by which it selects
  int8_t dropout = -1;         // position of a probability; random unless that is absent or 0
  PartBy takes_part = PartBy::kNone;
};

// Of a name as targets.h spells it, such as "aten.add.Tensor".
[[nodiscard]] OperatorTraits operator_traits(std::string_view name);

}  // namespace spfast
