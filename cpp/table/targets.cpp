#include "table/targets.h"

#include <mutex>
#include <vector>

#include "base/interner.h"

namespace spfast {
namespace {

// The operators whose meaning the core itself relies on; known without a schema.
struct Builtin {
  const char* name;
  uint8_t flags;
};
constexpr Builtin kBuiltins[] = {
    {"aten.view.default", target_flag::kView | target_flag::kAliases},
    {"aten.reshape.default", target_flag::kView | target_flag::kAliases},
    {"aten._unsafe_view.default", target_flag::kView | target_flag::kAliases},
    {"aten.clone.default", target_flag::kIdentity},
    {"aten.alias.default", target_flag::kIdentity | target_flag::kAliases},
    {"aten.detach.default", target_flag::kIdentity | target_flag::kAliases},
    {"aten.lift_fresh_copy.default", target_flag::kIdentity},
    {"aten.copy.default", target_flag::kCopy},
    {"aten.slice.Tensor", target_flag::kSlice | target_flag::kAliases},
    {"_operator.getitem", target_flag::kGetItem | target_flag::kAliases},
    {"aten.copy_.default", target_flag::kMutates},
};

class Registry {
 public:
  Registry() {
    for (const Builtin& builtin : kBuiltins) {
      const TargetId id = intern(builtin.name);
      flags_[id] = builtin.flags;
      if ((builtin.flags & target_flag::kMutates) != 0) writes_[id] = 1;
    }
  }
  TargetId intern(std::string_view name) {
    const TargetId id = names_.intern(name);
    if (id >= flags_.size()) {
      flags_.resize(id + 1, 0);
      writes_.resize(id + 1, 0);
    }
    return id;
  }
  [[nodiscard]] std::string_view name(TargetId id) const { return names_.at(id); }
  [[nodiscard]] uint8_t flags(TargetId id) const { return flags_.at(id); }
  [[nodiscard]] uint32_t writes(TargetId id) const { return writes_.at(id); }
  void describe(TargetId id, uint8_t flags, uint32_t writes) {
    flags_.at(id) |= flags;
    writes_.at(id) |= writes;
  }

 private:
  StringInterner names_;
  std::vector<uint8_t> flags_;
  std::vector<uint32_t> writes_;
};

struct Locked {
  std::mutex mutex;
  Registry registry;
};

// Never destroyed: other statics and late Python objects may still ask for a name at exit.
Locked& locked() {
  static auto& instance = *new Locked;
  return instance;
}

}  // namespace

TargetId intern_target(std::string_view name) {
  const std::lock_guard lock(locked().mutex);
  return locked().registry.intern(name);
}

std::string target_name(TargetId id) {
  const std::lock_guard lock(locked().mutex);
  return std::string(locked().registry.name(id));
}

uint8_t target_flags(TargetId id) {
  const std::lock_guard lock(locked().mutex);
  return locked().registry.flags(id);
}

uint32_t target_writes(TargetId id) {
  const std::lock_guard lock(locked().mutex);
  return locked().registry.writes(id);
}

std::vector<std::string> known_targets(uint8_t flag) {
  std::vector<std::string> out;
  for (const Builtin& builtin : kBuiltins) {
    if ((builtin.flags & flag) != 0) out.emplace_back(builtin.name);
  }
  return out;
}

void describe_target(TargetId id, uint8_t flags, uint32_t writes) {
  const std::lock_guard lock(locked().mutex);
  locked().registry.describe(id, flags, writes);
}

}  // namespace spfast
