// Counts elementary steps. Tests ask by it whether work grows no faster than the input; a count is
// the same on every machine, unlike a time. Outside of tests it compiles to nothing.
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
