// What is known of memory that the graph writes to, beyond the names of its nodes: a value that is
// copied into a buffer is read by the buffer's name, or by that of any view of it.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "rewrite/group_topology.h"

namespace spfast {

// Of each storage: the groups of which its contents are each rank's own or scattered, and what
// shows it; and those over which nobody proves that what was written is the same.
class StorageContents {
 public:
  struct Contents {
    GroupMask own = 0;
    GroupMask scattered = 0;
    GroupMask unproved = 0;
    std::vector<NodeId> evidence;  // by slot
  };

  explicit StorageContents(uint32_t slots) : slots_(slots) {}
  [[nodiscard]] bool empty() const { return known_.empty(); }
  // Null for a storage of which nothing is known.
  [[nodiscard]] const Contents* find(NodeId storage) const {
    const auto found = known_.find(storage);
    return found == known_.end() ? nullptr : &found->second;
  }
  Contents& of(NodeId storage) {
    Contents& contents = known_[storage];
    if (contents.evidence.empty()) contents.evidence.resize(slots_, kNone);
    return contents;
  }

 private:
  uint32_t slots_;
  std::unordered_map<NodeId, Contents> known_;
};

}  // namespace spfast
