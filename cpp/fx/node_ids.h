// Addresses of nodes to their ids: open addressing, since every operand of a graph is looked up
// once.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "table/value.h"

namespace spfast::fx {

class NodeIds {
 public:
  explicit NodeIds(size_t expected) {
    const size_t capacity = std::bit_ceil(expected * 2 + 16);
    slots_.resize(capacity);
    mask_ = capacity - 1;
  }
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
  [[nodiscard]] size_t hash(const void* node) const {
    auto bits = reinterpret_cast<uintptr_t>(node) >> 4;
    bits *= 0x9E3779B97F4A7C15ULL;
    return (bits >> 20) & mask_;
  }
  void place(const void* node, NodeId id) {
    size_t i = hash(node);
    while (slots_[i].node != nullptr) i = (i + 1) & mask_;
    slots_[i] = {node, id};
  }
  void grow() {
    std::vector<Slot> old = std::move(slots_);
    slots_.assign(old.size() * 2, Slot{});
    mask_ = slots_.size() - 1;
    for (const Slot& slot : old) {
      if (slot.node != nullptr) place(slot.node, slot.id);
    }
  }

  std::vector<Slot> slots_;
  size_t mask_ = 0;
  size_t count_ = 0;
};

}  // namespace spfast::fx
