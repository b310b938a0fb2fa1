#include "fx/target_cache.h"

#include "table/targets.h"

namespace spfast::fx {
namespace {

// Guarded by the GIL. Holds a reference to each key: an address is never another object's.
std::unordered_map<PyObject*, TargetEntry>& permanent() {
  static auto& map = *new std::unordered_map<PyObject*, TargetEntry>;
  return map;
}

}  // namespace

TargetCache::TargetCache() : describe_(py::module_::import("spfast.targets").attr("describe")) {}

TargetEntry TargetCache::resolve(py::handle target) {
  if (const auto it = permanent().find(target.ptr()); it != permanent().end()) return it->second;
  if (const auto it = local_.find(target.ptr()); it != local_.end()) return it->second;
  return describe(target);
}

TargetEntry TargetCache::describe(py::handle target) {
  const py::tuple answer = describe_(target);
  TargetEntry entry;
  entry.id = intern_target(answer[0].cast<std::string>());
  describe_target(entry.id, answer[1].cast<uint8_t>(), answer[2].cast<uint32_t>());
  entry.flags = target_flags(entry.id);
  entry.wraps = answer[3].cast<bool>();
  if (answer[4].cast<bool>()) {
    permanent().emplace(py::reinterpret_borrow<py::object>(target).release().ptr(), entry);
  } else {
    local_.emplace(target.ptr(), entry);
  }
  return entry;
}

TargetEntry TargetCache::compound(const TargetEntry& outer, const TargetEntry& inner) {
  const auto [it, fresh] = compounds_.try_emplace({outer.id, inner.id});
  if (fresh) {
    it->second.id = intern_target(target_name(outer.id) + "[" + target_name(inner.id) + "]");
    it->second.flags = outer.flags;
  }
  return it->second;
}

}  // namespace spfast::fx
