#include <bit>
#include <string_view>
#include <unordered_map>

#include "table/file_format.h"
#include "table/file_header.h"
#include "table/targets.h"

namespace spfast {

class TableWriter {
 public:
  explicit TableWriter(const NodeTable& table) : t_(table) {}

  std::vector<uint8_t> write() {
    put_strings();
    put_numbers();
    put_nodes();
    put_metas();
    std::vector<uint8_t> file(kMagic.begin(), kMagic.end());
    put_fixed(file, kFileVersion);
    put_fixed(file, static_cast<uint64_t>(out_.size()));
    put_fixed(file, crc32(out_));
    file.insert(file.end(), out_.begin(), out_.end());
    return file;
  }

 private:
  void put(uint64_t value) {
    while (value >= 0x80) {
      out_.push_back(static_cast<uint8_t>(value | 0x80));
      value >>= 7;
    }
    out_.push_back(static_cast<uint8_t>(value));
  }
  void put_signed(int64_t value) {  // zigzag
    put((static_cast<uint64_t>(value) << 1) ^ static_cast<uint64_t>(value >> 63));
  }
  void put_text(std::string_view text) {
    put(text.size());
    out_.insert(out_.end(), text.begin(), text.end());
  }
  void put_optional(uint32_t id) { put(id == kNone ? 0 : uint64_t{id} + 1); }
  void put_span(Span span) {
    put(span.begin);
    put(span.count);
  }

  void put_strings() {
    for (const StringInterner* pool : {&t_.strings_, &t_.exprs_}) {
      put(pool->size());
      for (uint32_t i = 0; i < pool->size(); ++i) put_text(pool->at(i));
    }
    put(t_.symbols_.size());
    for (const auto& [name, hint] : t_.symbols_) {
      put(name);
      put_signed(hint);
    }
  }
  void put_numbers() {
    put(t_.ints_.size());
    for (const int64_t value : t_.ints_) put_signed(value);
    put(t_.floats_.size());
    for (const double value : t_.floats_) put_fixed(out_, std::bit_cast<uint64_t>(value));
    // Target ids belong to the process; the file has its own, by name.
    std::vector<TargetId> used;
    const auto note = [&](TargetId id) {
      if (file_target_.try_emplace(id, static_cast<uint32_t>(used.size())).second) {
        used.push_back(id);
      }
    };
    for (const TargetId id : t_.targets_) note(id);
    for (const Argument value : t_.values_) {
      if (value.tag == Tag::kTarget) note(value.payload);
    }
    put(used.size());
    for (const TargetId id : used) {
      put_text(target_name(id));
      out_.push_back(target_flags(id));
    }
  }
  void put_nodes() {
    put(t_.values_.size());
    for (const Argument value : t_.values_) {
      out_.push_back(static_cast<uint8_t>(value.tag));
      put(value.tag == Tag::kTarget ? file_target_.at(value.payload) : value.payload);
    }
    put(t_.spans_.size());
    for (const Span span : t_.spans_) put_span(span);
    put(t_.size());
    for (NodeId node = 0; node < t_.size(); ++node) {
      out_.push_back(static_cast<uint8_t>(t_.ops_[node]));
      put(file_target_.at(t_.targets_[node]));
      put_optional(t_.names_[node]);
      put(t_.begins_[node + 1] - t_.begins_[node]);
      put(t_.n_args_[node]);
      put(t_.n_kwargs_[node]);
      put_optional(t_.meta_of_[node]);
    }
  }
  void put_metas() {
    put(t_.dim_pool_.size());
    for (const Dim dim : t_.dim_pool_) put_signed(dim.raw);
    put(t_.part_pool_.size());
    for (const uint32_t part : t_.part_pool_) put(part);
    put(t_.metas_.size());
    for (const Meta& meta : t_.metas_) {
      out_.push_back(static_cast<uint8_t>(meta.kind));
      put_optional(meta.dtype);
      put_optional(meta.device);
      put_span(meta.dims);
      put_signed(meta.tokens.raw);
      put_span(meta.strides);
      put_span(meta.parts);
    }
  }

  const NodeTable& t_;
  std::vector<uint8_t> out_;
  std::unordered_map<TargetId, uint32_t> file_target_;
};

std::vector<uint8_t> write_table(const NodeTable& table) { return TableWriter(table).write(); }

}  // namespace spfast
