// Counts elementary steps where a test asks whether work grows with the size of its input and no
// faster: a count is the same on every machine, unlike a time. Compiled to nothing elsewhere.
#pragma once

#include <cstdint>

#ifdef SPFAST_COUNT_WORK
namespace spfast {
inline thread_local uint64_t work_done = 0;
}
#define SPFAST_WORK(steps) (::spfast::work_done += static_cast<uint64_t>(steps))
#else
#define SPFAST_WORK(steps) static_cast<void>(0)
#endif
