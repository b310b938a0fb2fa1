// Lists as sorted sets.
#pragma once

#include <algorithm>
#include <vector>

namespace spfast {

// Sorts a list and drops what it holds twice.
template <typename Item>
void sort_unique(std::vector<Item>& list) {
  std::sort(list.begin(), list.end());
  list.erase(std::unique(list.begin(), list.end()), list.end());
}

}  // namespace spfast
