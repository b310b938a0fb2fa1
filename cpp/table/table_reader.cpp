#include <algorithm>
#include <bit>
#include <string>
#include <utility>

#include "base/check.h"
#include "table/file_format.h"
#include "table/file_header.h"
#include "table/targets.h"

namespace spfast {

class TableReader {
 public:
  explicit TableReader(std::span<const uint8_t> payload) : in_(payload) {}

  NodeTable read() {
    get_strings();
    get_numbers();
    get_nodes();
    get_metas();
    require(at_ == in_.size(), "bytes after the end of the table");
    t_.finish();
    return std::move(t_);
  }

 private:
  static void require(bool condition, const char* what) {
    if (!condition) throw FileFormatError(std::string("damaged table file: ") + what);
  }
  uint8_t byte() {
    require(at_ < in_.size(), "it ends in the middle of a record");
    return in_[at_++];
  }
  uint64_t get() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const uint8_t next = byte();
      value |= uint64_t{next & 0x7FU} << shift;
      if ((next & 0x80U) == 0) return value;
    }
    throw FileFormatError("damaged table file: a number has too many bytes");
  }
  int64_t get_signed() {
    const uint64_t value = get();
    return static_cast<int64_t>(value >> 1) ^ -static_cast<int64_t>(value & 1);
  }
  // A count of records of at least `least` bytes each: more than the file can hold is refused
  // before anything is allocated.
  uint32_t count(size_t least) {
    const uint64_t value = get();
    require(value <= (in_.size() - at_) / least, "a count is larger than the file");
    require(value < kNone, "a count is too large");
    return static_cast<uint32_t>(value);
  }
  uint32_t id(size_t limit) {
    const uint64_t value = get();
    require(value < limit, "an index points outside its pool");
    return static_cast<uint32_t>(value);
  }
  uint32_t optional_id(size_t limit) {
    const uint64_t value = get();
    require(value <= limit, "an index points outside its pool");
    return value == 0 ? kNone : static_cast<uint32_t>(value - 1);
  }
  Span span(size_t limit) {
    const uint64_t begin = get();
    const uint64_t length = get();
    require(begin <= limit && length <= limit - begin, "a span points outside its pool");
    return {static_cast<uint32_t>(begin), static_cast<uint32_t>(length)};
  }
  std::string text() {
    const uint32_t length = count(1);
    std::string out(reinterpret_cast<const char*>(in_.data() + at_), length);
    at_ += length;
    return out;
  }

  void get_strings() {
    for (StringInterner* pool : {&t_.strings_, &t_.exprs_}) {
      const uint32_t n = count(1);
      for (uint32_t i = 0; i < n; ++i) require(pool->intern(text()) == i, "a string stands twice");
    }
    const uint32_t n = count(2);
    for (uint32_t i = 0; i < n; ++i) {
      const uint32_t name = id(t_.strings_.size());
      t_.symbols_.emplace_back(name, get_signed());
    }
  }
  void get_numbers() {
    uint32_t n = count(1);
    for (uint32_t i = 0; i < n; ++i) {
      require(t_.make_int(get_signed()).payload == i, "an integer stands twice");
    }
    n = count(8);
    for (uint32_t i = 0; i < n; ++i) {
      const auto bits = get_fixed<uint64_t>(in_, at_);
      at_ += 8;
      require(t_.make_float(std::bit_cast<double>(bits)).payload == i, "a float stands twice");
    }
    n = count(2);
    for (uint32_t i = 0; i < n; ++i) {
      const TargetId target = intern_target(text());
      flags_.push_back(byte());
      targets_.push_back(target);
    }
  }
  void get_nodes() {
    const uint32_t n_values = count(2);
    t_.values_.reserve(n_values);
    for (uint32_t i = 0; i < n_values; ++i) {
      const uint8_t tag = byte();
      require(tag < kTagCount, "an unknown kind of value");
      const uint64_t payload = get();
      require(payload < kNone, "an index points outside its pool");
      t_.values_.push_back({static_cast<Tag>(tag), static_cast<uint32_t>(payload)});
    }
    const uint32_t n_spans = count(2);
    for (uint32_t i = 0; i < n_spans; ++i) t_.spans_.push_back(span(n_values));
    const uint32_t n_nodes = count(7);
    t_.reserve(n_nodes);
    uint64_t begin = 0;
    t_.begins_.clear();
    for (uint32_t i = 0; i < n_nodes; ++i) {
      const uint8_t op = byte();
      require(op < kOpCount, "an unknown kind of node");
      const uint32_t target = id(targets_.size());
      t_.ops_.push_back(static_cast<Op>(op));
      t_.targets_.push_back(targets_[target]);
      t_.flags_.push_back(flags_[target]);
      t_.names_.push_back(optional_id(t_.strings_.size()));
      t_.begins_.push_back(static_cast<uint32_t>(begin));
      const uint64_t held = get();
      t_.n_args_.push_back(static_cast<uint32_t>(get_bounded(held)));
      t_.n_kwargs_.push_back(static_cast<uint32_t>(get_bounded(held)));
      require(t_.n_args_.back() + 2 * uint64_t{t_.n_kwargs_.back()} <= held,
              "a node holds fewer values than it has operands");
      begin += held;
      require(begin <= n_values, "nodes hold more values than there are");
      t_.meta_of_.push_back(static_cast<uint32_t>(get_bounded(kNone)) - 1);  // checked below
    }
    require(begin == n_values, "values that belong to no node");
    t_.begins_.push_back(n_values);
    check_values();
  }
  uint64_t get_bounded(uint64_t limit) {
    const uint64_t value = get();
    require(value <= limit, "a number is out of its range");
    return value;
  }
  // Checks that operands come before their users, and that each nested value is in one container
  // that comes before it in the same node. So neither the graph nor a container can loop, or grow
  // when it is decoded.
  void check_values() {
    owned_.assign(t_.values_.size(), false);
    for (NodeId node = 0; node < t_.size(); ++node) {
      const uint32_t begin = t_.begins_[node];
      const uint32_t end = t_.begins_[node + 1];
      const auto pairs = t_.kwargs(node);
      const auto top = begin + static_cast<uint32_t>(t_.args(node).size() + pairs.size());
      std::fill(owned_.begin() + begin, owned_.begin() + top, true);
      for (uint32_t i = begin; i < end; ++i) {
        require(owned_[i], "a value that stands nowhere");
        check_value(node, i);
      }
      for (size_t k = 0; k < pairs.size(); k += 2) {
        require(pairs[k].tag == Tag::kString, "a keyword that is no string");
      }
    }
  }
  void check_value(NodeId node, uint32_t index) {
    Argument& value = t_.values_[index];
    switch (value.tag) {
      case Tag::kAbsent:
      case Tag::kNoneType:
        require(value.payload == 0, "a None with a value");
        break;
      case Tag::kBool:
        require(value.payload <= 1, "a truth value other than 0 and 1");
        break;
      case Tag::kInt:
        require(value.payload < t_.ints_.size(), "an index points outside its pool");
        break;
      case Tag::kFloat:
        require(value.payload < t_.floats_.size(), "an index points outside its pool");
        break;
      case Tag::kNode:
        require(value.payload < node, "a node reads one that comes after it");
        break;
      case Tag::kTarget:
        require(value.payload < targets_.size(), "an index points outside its pool");
        value.payload = targets_[value.payload];
        break;
      case Tag::kString:
      case Tag::kDtype:
      case Tag::kDevice:
      case Tag::kConst:
      case Tag::kOpaque:
        require(value.payload < t_.strings_.size(), "an index points outside its pool");
        break;
      case Tag::kExpr:
        require(value.payload < t_.exprs_.size(), "an index points outside its pool");
        break;
      default:
        if (is_container(value.tag)) check_container(node, index, value);
        break;
    }
  }
  void check_container(NodeId node, uint32_t index, Argument value) {
    require(value.payload < t_.spans_.size(), "an index points outside its pool");
    const Span span = t_.spans_[value.payload];
    require(span.count == 0 ||
                (span.begin > index && span.begin + uint64_t{span.count} <= t_.begins_[node + 1]),
            "a container holds what is not its own");
    for (uint32_t i = span.begin; i < span.begin + span.count; ++i) {
      require(!owned_[i], "a container holds what is not its own");
      owned_[i] = true;
    }
    if (value.tag == Tag::kDict) require(span.count % 2 == 0, "a dict with half a pair");
    if (value.tag == Tag::kSlice) require(span.count == 3, "a slice without three parts");
  }
  Dim get_dim() {
    const Dim dim{get_signed()};
    if (dim.is_expr()) {
      require(static_cast<uint64_t>(dim.raw ^ Dim::kExprBit) < t_.exprs_.size(),
              "an index points outside its pool");
    }
    return dim;
  }
  void get_metas() {
    uint32_t n = count(1);
    for (uint32_t i = 0; i < n; ++i) t_.dim_pool_.push_back(get_dim());
    const uint32_t n_parts = count(1);
    for (uint32_t i = 0; i < n_parts; ++i) {
      t_.part_pool_.push_back(static_cast<uint32_t>(get_bounded(kNone - 1)));
    }
    n = count(10);
    for (uint32_t i = 0; i < n; ++i) {
      Meta meta;
      const uint8_t kind = byte();
      require(kind < kMetaKindCount, "an unknown kind of meta");
      meta.kind = static_cast<MetaKind>(kind);
      meta.dtype = optional_id(t_.strings_.size());
      meta.device = optional_id(t_.strings_.size());
      meta.dims = span(t_.dim_pool_.size());
      meta.tokens = get_dim();
      meta.strides = span(t_.dim_pool_.size());
      meta.parts = span(t_.part_pool_.size());
      require(meta.strides.count == 0 || meta.strides.count == meta.dims.count,
              "strides that do not fit the sizes");
      require(meta.kind != MetaKind::kSym || meta.dims.count == 1, "a number without its value");
      require(meta.kind == MetaKind::kTuple || meta.parts.count == 0, "parts of what is no tuple");
      for (const uint32_t part : t_.parts(meta)) {
        require(part < i, "a tuple that holds what comes after it");
        require(t_.metas_[part].kind != MetaKind::kTuple, "a tuple of tuples");
      }
      t_.metas_.push_back(meta);
    }
    for (uint32_t& meta : t_.meta_of_) {
      require(meta == kNone || meta < t_.metas_.size(), "an index points outside its pool");
    }
  }

  std::span<const uint8_t> in_;
  size_t at_ = 0;
  NodeTable t_;
  std::vector<TargetId> targets_;
  std::vector<uint8_t> flags_;
  std::vector<bool> owned_;  // by value: it has its place in a node
};

NodeTable read_table(std::span<const uint8_t> bytes) {
  if (bytes.size() < kHeaderSize || !std::equal(kMagic.begin(), kMagic.end(), bytes.begin())) {
    throw FileFormatError("not a spfast table: it does not start with SPFX");
  }
  const auto version = get_fixed<uint32_t>(bytes, 4);
  if (version != kFileVersion) {
    throw FileFormatError("the table file has version " + std::to_string(version) +
                          ", this spfast reads version " + std::to_string(kFileVersion) +
                          "; upgrade spfast or save the table again");
  }
  const auto length = get_fixed<uint64_t>(bytes, 8);
  const auto payload = bytes.subspan(kHeaderSize);
  if (payload.size() != length) {
    throw FileFormatError("truncated table file: it should hold " + std::to_string(length) +
                          " bytes and holds " + std::to_string(payload.size()));
  }
  if (crc32(payload) != get_fixed<uint32_t>(bytes, 16)) {
    throw FileFormatError("damaged table file: its checksum does not match");
  }
  return TableReader(payload).read();
}

}  // namespace spfast
