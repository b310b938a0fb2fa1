// Counts what operator new hands out, to bound the memory that hostile input can claim.
#pragma once

#include <cstddef>

namespace spfast::testing {

// Bytes asked for since the program began.
[[nodiscard]] size_t allocated_bytes();

}  // namespace spfast::testing
