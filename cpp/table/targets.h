// Operators by name. A target is interned once in the process. So patterns may name operators that
// torch does not know yet, and files may be read before torch is imported: the ids are those of a
// live graph. Properties of an operator come from whoever knows its schema (fx/).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "table/argument.h"

namespace spfast {

namespace target_flag {
inline constexpr uint8_t kView = 1;       // same elements in the same order, sizes in argument 1
inline constexpr uint8_t kIdentity = 2;   // same elements and sizes (clone, alias, detach)
inline constexpr uint8_t kCopy = 4;       // aten.copy(self, src): the value is argument 1
inline constexpr uint8_t kSlice = 8;      // aten.slice.Tensor: identity if the bounds are the whole
inline constexpr uint8_t kGetItem = 16;   // operator.getitem
inline constexpr uint8_t kMutates = 32;   // writes to an argument
inline constexpr uint8_t kFence = 64;     // ends a region: a stream change
inline constexpr uint8_t kAliases = 128;  // the result may share its first argument's storage
}  // namespace target_flag

// Thread-safe. Ids are dense and never reused.
[[nodiscard]] TargetId intern_target(std::string_view name);
[[nodiscard]] std::string target_name(TargetId id);
[[nodiscard]] uint8_t target_flags(TargetId id);
// Which positional arguments the operator writes to, one bit each; bit 30 stands for all further
// ones, the last bit for any keyword's.
[[nodiscard]] uint32_t target_writes(TargetId id);
// The operators that the core knows by name to have a flag.
[[nodiscard]] std::vector<std::string> known_targets(uint8_t flag);
void describe_target(TargetId id, uint8_t flags, uint32_t writes);

inline constexpr size_t kLastWritePosition = 30;
inline constexpr uint32_t kWritesKeywords = uint32_t{1} << 31;
// May write to whatever it can reach, however deep in its arguments.
inline constexpr uint32_t kWritesAnything = ~uint32_t{0};

}  // namespace spfast
