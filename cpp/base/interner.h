// Interning: equal values get one small id, so that the rest of the core compares integers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

namespace spfast {

// Strings to dense ids. Characters lie in blocks that never move: a view handed out stays valid for
// the interner's life. A table has a name for each node, so a string costs its characters, a view
// and a slot or two, and no allocation of its own.
class StringInterner {
 public:
  StringInterner() = default;
  StringInterner(StringInterner&&) = default;
  StringInterner& operator=(StringInterner&&) = default;
  StringInterner(const StringInterner&) = delete;  // the views point into the blocks
  StringInterner& operator=(const StringInterner&) = delete;

  uint32_t intern(std::string_view text) {
    if (4 * (texts_.size() + 1) > 3 * slots_.size()) grow();
    uint32_t& slot = slots_[place_of(text)];
    if (slot == kFree) {
      slot = size();
      texts_.push_back(kept(text));
    }
    return slot;
  }
  [[nodiscard]] std::string_view at(uint32_t id) const { return texts_.at(id); }
  [[nodiscard]] uint32_t size() const { return static_cast<uint32_t>(texts_.size()); }
  // Gives back what the list of views holds in reserve.
  void shrink_to_fit() { texts_.shrink_to_fit(); }
  [[nodiscard]] size_t memory_bytes() const {
    return characters_ + blocks_.capacity() * sizeof(blocks_[0]) +
           texts_.capacity() * sizeof(texts_[0]) + slots_.capacity() * sizeof(slots_[0]);
  }

 private:
  static constexpr uint32_t kFree = std::numeric_limits<uint32_t>::max();
  static constexpr size_t kFirstBlock = 256;
  static constexpr size_t kLargestBlock = size_t{1} << 16;

  // Where the text is among the slots, or the free slot where it belongs: open addressing.
  [[nodiscard]] size_t place_of(std::string_view text) const {
    const size_t mask = slots_.size() - 1;
    size_t i = std::hash<std::string_view>{}(text)&mask;
    while (slots_[i] != kFree && texts_[slots_[i]] != text) i = (i + 1) & mask;
    return i;
  }
  void grow() {
    slots_.assign(std::max<size_t>(2 * slots_.size(), 16), kFree);
    for (uint32_t id = 0; id < size(); ++id) slots_[place_of(texts_[id])] = id;
  }
  // Blocks double until they are large, for most tables have few strings.
  [[nodiscard]] std::string_view kept(std::string_view text) {
    if (text.size() > room_) {
      const size_t block = std::clamp(characters_, kFirstBlock, kLargestBlock);
      room_ = std::max(block, text.size());
      blocks_.push_back(std::make_unique_for_overwrite<char[]>(room_));
      next_ = blocks_.back().get();
      characters_ += room_;
    }
    char* const begin = next_;
    next_ = std::copy(text.begin(), text.end(), begin);
    room_ -= text.size();
    return {begin, text.size()};
  }

  std::vector<std::unique_ptr<char[]>> blocks_;
  char* next_ = nullptr;                 // in the last block
  size_t room_ = 0;                      // what is left of it
  size_t characters_ = 0;                // in all blocks
  std::vector<std::string_view> texts_;  // by id
  std::vector<uint32_t> slots_;          // a power of two of them: ids, by hash
};

}  // namespace spfast
