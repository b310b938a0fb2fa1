#include "table/node_table.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace spfast {

NodeId NodeTable::add_node(Op op, TargetId target, uint8_t flags, uint32_t name) {
  const NodeId id = size();
  ops_.push_back(op);
  targets_.push_back(target);
  flags_.push_back(flags);
  names_.push_back(name);
  n_args_.push_back(0);
  n_kwargs_.push_back(0);
  meta_of_.push_back(kNone);
  begins_.back() = static_cast<uint32_t>(values_.size());
  begins_.push_back(static_cast<uint32_t>(values_.size()));
  return id;
}

void NodeTable::begin_operands(uint32_t n_args, uint32_t n_kwargs) {
  n_args_.back() = n_args;
  n_kwargs_.back() = n_kwargs;
  (void)reserve_values(n_args + 2 * n_kwargs);
}

uint32_t NodeTable::reserve_values(uint32_t count) {
  const auto begin = static_cast<uint32_t>(values_.size());
  values_.resize(values_.size() + count);
  begins_.back() = static_cast<uint32_t>(values_.size());
  return begin;
}

Argument NodeTable::make_container(Tag tag, uint32_t begin, uint32_t count) {
  spans_.push_back({begin, count});
  return {tag, static_cast<uint32_t>(spans_.size() - 1)};
}

Argument NodeTable::make_int(int64_t value) {
  const auto [it, fresh] = int_ids_.try_emplace(value, static_cast<uint32_t>(ints_.size()));
  if (fresh) ints_.push_back(value);
  return {Tag::kInt, it->second};
}

Argument NodeTable::make_float(double value) {
  const auto [it, fresh] =
      float_ids_.try_emplace(std::bit_cast<uint64_t>(value), static_cast<uint32_t>(floats_.size()));
  if (fresh) floats_.push_back(value);
  return {Tag::kFloat, it->second};
}

uint32_t NodeTable::intern_expr(std::string_view text) { return exprs_.intern(text); }

uint32_t NodeTable::add_meta(const Meta& meta) {
  const uint64_t hash = hash_of(meta);
  const auto [first, last] = meta_ids_.equal_range(hash);
  for (auto it = first; it != last; ++it) {
    if (!same(metas_[it->second], meta)) continue;
    const auto drop = [](auto& pool, Span span) {
      if (span.begin + span.count == pool.size()) pool.resize(span.begin);
    };
    drop(dim_pool_, meta.strides);
    drop(dim_pool_, meta.dims);
    drop(part_pool_, meta.parts);
    return it->second;
  }
  metas_.push_back(meta);
  const auto id = static_cast<uint32_t>(metas_.size() - 1);
  meta_ids_.emplace(hash, id);
  return id;
}

uint64_t NodeTable::hash_of(const Meta& meta) const {
  uint64_t hash = static_cast<uint64_t>(meta.kind);
  const auto add = [&hash](uint64_t bits) {
    hash = (std::rotl(hash, 5) ^ bits) * 0x9E3779B97F4A7C15ULL;
  };
  add(meta.dtype);
  add(meta.device);
  for (const Dim dim : dims(meta)) add(static_cast<uint64_t>(dim.raw));
  for (const Dim stride : strides(meta)) add(~static_cast<uint64_t>(stride.raw));
  for (const uint32_t part : parts(meta)) add(part);
  return hash;
}

bool NodeTable::same(const Meta& a, const Meta& b) const {
  return a.kind == b.kind && a.dtype == b.dtype && a.device == b.device && a.tokens == b.tokens &&
         std::ranges::equal(dims(a), dims(b)) && std::ranges::equal(strides(a), strides(b)) &&
         std::ranges::equal(parts(a), parts(b));
}

Span NodeTable::add_dims(std::span<const Dim> dims) {
  const Span span{static_cast<uint32_t>(dim_pool_.size()), static_cast<uint32_t>(dims.size())};
  dim_pool_.insert(dim_pool_.end(), dims.begin(), dims.end());
  return span;
}

Span NodeTable::add_parts(std::span<const uint32_t> parts) {
  const Span span{static_cast<uint32_t>(part_pool_.size()), static_cast<uint32_t>(parts.size())};
  part_pool_.insert(part_pool_.end(), parts.begin(), parts.end());
  return span;
}

void NodeTable::add_symbol(std::string_view name, int64_t hint) {
  symbols_.emplace_back(strings_.intern(name), hint);
}

void NodeTable::reserve(uint32_t nodes) {
  ops_.reserve(nodes);
  flags_.reserve(nodes);
  targets_.reserve(nodes);
  names_.reserve(nodes);
  begins_.reserve(nodes + 1);
  n_args_.reserve(nodes);
  n_kwargs_.reserve(nodes);
  meta_of_.reserve(nodes);
  values_.reserve(size_t{nodes} * 3);
}

void NodeTable::finish() {
  const uint32_t count = size();
  user_begins_.assign(count + 1, 0);
  // A user that reads a node twice is one user, as in FX. So the user that was counted last is
  // kept.
  std::vector<NodeId> last_user(count, kNone);
  for (NodeId user = 0; user < count; ++user) {
    for (const Argument value : operands(user)) {
      if (!value.is_node()) continue;
      SPFAST_CHECK(value.payload < user);
      if (last_user[value.payload] == user) continue;
      last_user[value.payload] = user;
      ++user_begins_[value.payload + 1];
    }
  }
  for (uint32_t i = 0; i < count; ++i) user_begins_[i + 1] += user_begins_[i];
  users_.resize(user_begins_[count]);
  std::vector<uint32_t> next(user_begins_.begin(), user_begins_.end() - 1);
  last_user.assign(count, kNone);
  for (NodeId user = 0; user < count; ++user) {
    for (const Argument value : operands(user)) {
      if (!value.is_node() || last_user[value.payload] == user) continue;
      last_user[value.payload] = user;
      users_[next[value.payload]++] = user;
    }
  }
}

void NodeTable::shrink_to_fit() {
  ops_.shrink_to_fit();
  flags_.shrink_to_fit();
  for (auto* pool : {&targets_, &names_, &begins_, &n_args_, &n_kwargs_, &meta_of_, &part_pool_,
                     &user_begins_, &users_}) {
    pool->shrink_to_fit();
  }
  values_.shrink_to_fit();
  spans_.shrink_to_fit();
  metas_.shrink_to_fit();
  dim_pool_.shrink_to_fit();
  strings_.shrink_to_fit();
}

Argument NodeTable::kwarg(NodeId node, uint32_t key) const {
  const auto pairs = kwargs(node);
  for (size_t i = 0; i < pairs.size(); i += 2) {
    if (pairs[i].payload == key) return pairs[i + 1];
  }
  return {};
}

Argument NodeTable::kwarg(NodeId node, std::string_view key) const {
  const auto pairs = kwargs(node);
  for (size_t i = 0; i < pairs.size(); i += 2) {
    if (string(pairs[i].payload) == key) return pairs[i + 1];
  }
  return {};
}

std::span<const Argument> NodeTable::items(Argument container) const {
  SPFAST_CHECK(is_container(container.tag));
  const Span span = spans_.at(container.payload);
  return {values_.data() + span.begin, span.count};
}

int64_t NodeTable::as_int(Argument value) const {
  if (value.tag == Tag::kBool) return value.payload;
  SPFAST_CHECK(value.tag == Tag::kInt);
  return ints_.at(value.payload);
}

double NodeTable::as_float(Argument value) const {
  if (value.tag != Tag::kFloat) return static_cast<double>(as_int(value));
  return floats_.at(value.payload);
}

const Meta& NodeTable::meta(NodeId node) const {
  static const Meta kUnknownMeta;
  const uint32_t id = meta_of_[node];
  return id == kNone ? kUnknownMeta : metas_[id];
}

size_t NodeTable::memory_bytes() const {
  size_t bytes = ops_.capacity() * sizeof(Op) + flags_.capacity();
  for (const auto* pool : {&targets_, &names_, &begins_, &n_args_, &n_kwargs_, &meta_of_,
                           &part_pool_, &user_begins_, &users_}) {
    bytes += pool->capacity() * sizeof(uint32_t);
  }
  bytes += values_.capacity() * sizeof(Argument) + spans_.capacity() * sizeof(Span);
  bytes += ints_.capacity() * sizeof(int64_t) + floats_.capacity() * sizeof(double);
  bytes += metas_.capacity() * sizeof(Meta) + dim_pool_.capacity() * sizeof(Dim);
  bytes += strings_.memory_bytes() + exprs_.memory_bytes();
  return bytes + 32 * (int_ids_.size() + float_ids_.size() + meta_ids_.size());
}

}  // namespace spfast
