// What an operator is, told from its name alone: whether it is a collective, say, or whether equal
// operands give every rank the same result. So a table from a file says the same as a live graph
// does.
#pragma once

#include <cstdint>
#include <mutex>
#include <string_view>
#include <vector>

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

// The traits of a table's operators, each found out once.
class TraitsCache {
 public:
  // Defined here, for it is asked of every node and mostly takes a few instructions.
  [[nodiscard]] const OperatorTraits& of(TargetId target) {
    const bool known = target < known_.size() && known_[target];
    return known ? traits_[target] : find_out(target);
  }

 private:
  const OperatorTraits& find_out(TargetId target);

  std::vector<OperatorTraits> traits_;
  std::vector<bool> known_;
};

// A cache that all runs of the process share. It is locked as long as this lives, which is meant to
// be one walk over a table; to lock it at each node would take longer. Meanwhile nothing may wait
// for another thread.
class SharedTraits {
 public:
  SharedTraits();
  [[nodiscard]] const OperatorTraits& of(TargetId target) { return kept_.traits.of(target); }

 private:
  struct Kept {
    std::mutex mutex;
    TraitsCache traits;
  };
  [[nodiscard]] static Kept& kept();

  Kept& kept_;
  std::lock_guard<std::mutex> lock_;
};

}  // namespace spfast
