// A process group, as somebody outside the table resolved it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "table/argument.h"

namespace spfast {

struct GroupInfo {
  Argument group;
  int64_t size = 0;
  int64_t rank = 0;
  std::string problem;              // not empty: why its sites stay
  std::vector<uint32_t> within{};   // the other groups that all of its ranks are in
  std::vector<uint32_t> crosses{};  // those of which it has one rank, as axes of a mesh do
};

}  // namespace spfast
