// Addresses of nodes to their ids: open addressing, since every operand of a graph is looked up
// once.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "table/argument.h"

namespace spfast::fx {

class NodeIds {
 public:
  explicit NodeIds(size_t expected) { resize(std::bit_ceil(expected * 2 + 16)); }
  void insert(const void* node, NodeId id) {
    if (2 * (count_ + 1) > slots_.size()) grow();
    place(node, id);
    ++count_;
  }
  void prefetch(const void* node) const { __builtin_prefetch(&slots_[hash(node)]); }
  [[nodiscard]] NodeId find(const void* node) const {
    for (size_t i = hash(node);; i = (i + 1) & mask_) {
      if (slots_[i].node == node) return slots_[i].id;
      if (slots_[i].node == nullptr) return kNone;
    }
  }

 private:
  struct Slot {
    const void* node = nullptr;
    NodeId id = kNone;
  };
  // Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3, section 6.4): nodes stand
  // at nearly regular distances, and only the highest bits of the product spread those evenly.
  [[nodiscard]] size_t hash(const void* node) const {
    const auto bits = static_cast<uint64_t>(reinterpret_cast<uintptr_t>(node) >> 4);
    return static_cast<size_t>((bits * 0x9E3779B97F4A7C15ULL) >> shift_);
  }
  void resize(size_t capacity) {  // a power of two
    slots_.assign(capacity, Slot{});
    mask_ = capacity - 1;
    shift_ = 64 - std::countr_zero(capacity);
  }
  void place(const void* node, NodeId id) {
    size_t i = hash(node);
    while (slots_[i].node != nullptr) i = (i + 1) & mask_;
    slots_[i] = {node, id};
  }
  void grow() {
    const std::vector<Slot> old = std::move(slots_);
    resize(old.size() * 2);
    for (const Slot& slot : old) {
      if (slot.node != nullptr) place(slot.node, slot.id);
    }
  }

  std::vector<Slot> slots_;
  size_t mask_ = 0;
  int shift_ = 0;
  size_t count_ = 0;
};

}  // namespace spfast::fx
