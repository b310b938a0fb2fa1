#include "fx/target_cache.h"

#include <algorithm>

#include "table/targets.h"

namespace spfast::fx {
namespace {

// Guarded by the GIL. Holds a reference to each key: an address is never another object's.
std::unordered_map<PyObject*, TargetEntry>& permanent() {
  static auto& map = *new std::unordered_map<PyObject*, TargetEntry>;
  return map;
}

}  // namespace

TargetCache::TargetCache()
    : describe_(py::module_::import("spfast.fxgraph.targets").attr("describe")) {}

TargetEntry TargetCache::resolve(py::handle target) {
  if (const auto it = permanent().find(target.ptr()); it != permanent().end()) return it->second;
  if (const auto it = local_.find(target.ptr()); it != local_.end()) return it->second;
  return describe(target);
}

TargetEntry TargetCache::describe(py::handle target) {
  const py::object answer = describe_(target);
  const auto says = [&](const char* name) { return answer.attr(name).cast<bool>(); };
  uint32_t writes = says("writes_keywords") ? kWritesKeywords : 0;
  for (const py::handle position : answer.attr("writes")) {
    writes |= uint32_t{1} << std::min(position.cast<size_t>(), kLastWritePosition);
  }
  if (says("writes_anything")) writes = kWritesAnything;
  uint8_t flags = 0;
  if (writes != 0) flags |= target_flag::kMutates;
  if (says("fences")) flags |= target_flag::kFence;
  if (says("aliases")) flags |= target_flag::kAliases;
  TargetEntry entry;
  entry.id = intern_target(answer.attr("name").cast<std::string>());
  describe_target(entry.id, flags, writes);
  entry.flags = target_flags(entry.id);
  entry.wraps = says("wraps");
  if (says("lasts")) {
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
