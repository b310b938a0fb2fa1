// Interning: equal values get one small id, so that the rest of the core compares integers.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>

namespace spfast {

// Strings to dense ids. The storage is a deque: a view handed out stays valid for the interner's
// life.
class StringInterner {
 public:
  StringInterner() = default;
  StringInterner(StringInterner&&) = default;
  StringInterner& operator=(StringInterner&&) = default;
  StringInterner(const StringInterner&) = delete;  // the map's keys point into the deque
  StringInterner& operator=(const StringInterner&) = delete;

  uint32_t intern(std::string_view text) {
    if (auto it = ids_.find(text); it != ids_.end()) return it->second;
    const auto id = static_cast<uint32_t>(strings_.size());
    strings_.emplace_back(text);
    ids_.emplace(strings_.back(), id);
    return id;
  }
  [[nodiscard]] const std::string& at(uint32_t id) const { return strings_.at(id); }
  [[nodiscard]] uint32_t size() const { return static_cast<uint32_t>(strings_.size()); }

 private:
  std::deque<std::string> strings_;
  std::unordered_map<std::string_view, uint32_t> ids_;
};

}  // namespace spfast
