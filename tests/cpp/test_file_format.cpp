#include <cmath>
#include <limits>

#include "allocations.h"
#include "base/check.h"
#include "build.h"
#include "harness.h"
#include "table_file.h"

namespace spfast::testing {
namespace {

NodeTable every_kind_of_value() {
  GraphBuilder b;
  const Node s = b.placeholder("s0");
  const Node x = b.placeholder("x", {"s0", 8});
  const Node wide =
      b.call("test.everything.default",
             {nullptr, true, false, -7, std::numeric_limits<int64_t>::min(), 0.5, -0.0,
              std::numeric_limits<double>::quiet_NaN(), "text", dtype("torch.bfloat16"), x,
              list({x, tuple({1, list({})}), list({"k", s}, Tag::kDict)}),
              list({nullptr, 2, nullptr}, Tag::kSlice)},
             {"s0", 8}, {{"alpha", 2}, {"sizes", list({s, 8})}});
  b.table.set_value(b.table.operand_begin(wide.id),
                    {Tag::kTarget, intern_target("aten.add.Tensor")});
  b.name(wide, "wide");
  b.set_missing(s);
  Meta pair;
  pair.kind = MetaKind::kTuple;
  const uint32_t parts[] = {b.table.meta_id(x.id), b.table.meta_id(wide.id)};
  pair.parts = b.table.add_parts(parts);
  const Node split = b.call("test.split.default", {wide});
  b.table.set_meta(split.id, b.table.add_meta(pair));
  Meta strided = b.tensor_meta({4, 8});
  const Dim strides[] = {Dim::of(1), Dim::of(4)};
  strided.strides = b.table.add_dims(strides);
  const Node part = b.call("_operator.getitem", {split, 0});
  b.table.set_meta(part.id, b.table.add_meta(strided));
  b.table.add_symbol("s0", -4096);
  b.output({part, split});
  return b.finish();
}

std::string describe(const NodeTable& t) {
  std::string text;
  for (NodeId node = 0; node < t.size(); ++node) {
    text += std::to_string(static_cast<int>(t.op(node))) + " " + t.node_label(node) + " = " +
            target_name(t.target(node)) + " " + std::to_string(t.flags(node)) + "(";
    for (const Argument value : t.args(node)) text += t.format_value(value) + ", ";
    for (const Argument value : t.kwargs(node)) text += t.format_value(value) + "; ";
    text += ")";
    for (const NodeId user : t.users(node)) text += " " + std::to_string(user);
    const Meta& meta = t.meta(node);
    text += " : " + std::to_string(static_cast<int>(meta.kind)) + t.format_dims(t.dims(meta)) +
            t.format_dims(t.strides(meta)) + std::to_string(meta.tokens.raw);
    for (const uint32_t part : t.parts(meta)) {
      text += " part " + t.format_dims(t.dims(t.meta_at(part)));
    }
    for (const uint32_t id : {meta.dtype, meta.device}) {
      if (id != kNone) text.append(" ").append(t.string(id));
    }
    text += "\n";
  }
  for (const auto& [name, hint] : t.symbols()) {
    text.append(t.string(name)).append(" = " + std::to_string(hint) + "\n");
  }
  return text;
}

std::string refusal(const std::vector<uint8_t>& file) {
  return message_of<FileFormatError>([&] { (void)read_table(file); }, __FILE__, __LINE__);
}

TEST(file_round_trip) {
  const NodeTable table = every_kind_of_value();
  const auto bytes = write_table(table);
  const NodeTable back = read_table(bytes);
  EXPECT_EQ(describe(back), describe(table));
  EXPECT(write_table(back) == bytes);
  EXPECT(std::signbit(back.as_float(back.args(2)[6])));
  EXPECT(std::isnan(back.as_float(back.args(2)[7])));
  EXPECT_EQ(back.as_int(back.args(2)[4]), std::numeric_limits<int64_t>::min());
}

TEST(file_of_an_empty_table) {
  NodeTable table;
  table.finish();
  EXPECT_EQ(read_table(write_table(table)).size(), 0U);
}

TEST(file_checksum_is_crc32) {
  EXPECT_EQ(slow_crc32(reinterpret_cast<const uint8_t*>("123456789"), 9), 0xCBF43926U);
  auto bytes = write_table(every_kind_of_value());
  const auto before = bytes;
  sign(bytes);
  EXPECT(bytes == before);
}

TEST(file_truncated_at_every_length) {
  const auto bytes = write_table(every_kind_of_value());
  for (size_t length = 0; length < bytes.size(); ++length) {
    const std::vector<uint8_t> cut(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(length));
    const std::string said = refusal(cut);
    const std::string wanted =
        length < kHeaderBytes ? "not a spfast table: it does not start with SPFX"
                              : "truncated table file: it should hold " +
                                    std::to_string(bytes.size() - kHeaderBytes) +
                                    " bytes and holds " + std::to_string(length - kHeaderBytes);
    EXPECT_EQ(said, wanted);
  }
}

TEST(file_payload_cut_and_signed_again) {
  const auto bytes = write_table(every_kind_of_value());
  for (size_t length = kHeaderBytes; length < bytes.size(); ++length) {
    std::vector<uint8_t> cut(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(length));
    sign(cut);
    EXPECT_EQ(refusal(cut).substr(0, 20), "damaged table file: ");
  }
}

TEST(file_with_one_bit_flipped) {
  const auto bytes = write_table(every_kind_of_value());
  for (size_t at = 0; at < bytes.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      auto damaged = bytes;
      damaged[at] = static_cast<uint8_t>(damaged[at] ^ (1U << bit));
      EXPECT(!refusal(damaged).empty());
    }
  }
}

// Behind a checksum that is right, any byte may hold anything: the reader refuses it, or yields a
// table in which every index points somewhere.
TEST(file_with_each_byte_replaced_and_signed) {
  const auto bytes = write_table(every_kind_of_value());
  size_t refused = 0;
  size_t read = 0;
  for (size_t at = kHeaderBytes; at < bytes.size(); ++at) {
    for (const int value : {0, 1, 2, 0x3F, 0x7F, 0x80, 0xFF}) {
      auto damaged = bytes;
      damaged[at] = static_cast<uint8_t>(value);
      sign(damaged);
      try {
        const NodeTable table = read_table(damaged);
        EXPECT(!describe(table).empty());
        ++read;
      } catch (const FileFormatError&) {
        ++refused;
      }
    }
  }
  EXPECT(refused > 500);
  EXPECT(read > 100);
}

TEST(file_of_another_version) {
  auto bytes = write_table(every_kind_of_value());
  bytes[4] = 2;
  EXPECT_EQ(refusal(bytes),
            "the table file has version 2, this spfast reads version 1; upgrade spfast or save the "
            "table again");
}

TEST(file_of_something_else) {
  const std::string text = "PK\x03\x04 a zip archive with more than twenty bytes";
  EXPECT_EQ(refusal({text.begin(), text.end()}), "not a spfast table: it does not start with SPFX");
  EXPECT_EQ(refusal({}), "not a spfast table: it does not start with SPFX");
}

TEST(file_with_wrong_checksum) {
  auto bytes = write_table(every_kind_of_value());
  bytes.back() ^= 1U;
  EXPECT_EQ(refusal(bytes), "damaged table file: its checksum does not match");
}

TEST(file_with_bytes_after_its_end) {
  auto bytes = write_table(every_kind_of_value());
  bytes.push_back(0);
  sign(bytes);
  EXPECT_EQ(refusal(bytes), "damaged table file: bytes after the end of the table");
}

// Every count of the format in turn claims more than the file could hold.
TEST(file_with_a_huge_count_takes_no_memory) {
  for (const uint64_t huge : {uint64_t{1} << 20, uint64_t{kNone} - 1, uint64_t{1} << 40,
                              std::numeric_limits<uint64_t>::max()}) {
    for (size_t empty = 0; empty < 11; ++empty) {
      Payload payload;
      for (size_t i = 0; i < empty; ++i) payload.number(0);
      payload.number(huge).numbers({0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
      const auto file = file_of(payload.bytes);
      const size_t before = allocated_bytes();
      EXPECT_EQ(refusal(file), "damaged table file: a count is larger than the file");
      EXPECT(allocated_bytes() - before < 4096);
    }
  }
}

TEST(file_with_a_huge_string_takes_no_memory) {
  Payload payload;
  payload.number(1).number(uint64_t{1} << 31).numbers({0, 0, 0, 0});
  const auto file = file_of(payload.bytes);
  const size_t before = allocated_bytes();
  EXPECT_EQ(refusal(file), "damaged table file: a count is larger than the file");
  EXPECT(allocated_bytes() - before < 4096);
}

TEST(file_memory_is_bounded_by_its_size) {
  GraphBuilder b;
  Node x = b.placeholder("x");
  for (int i = 0; i < 20000; ++i) x = b.call("aten.relu.default", {x}, {i, 8});
  const auto bytes = write_table(b.finish());
  const size_t before = allocated_bytes();
  const NodeTable table = read_table(bytes);
  EXPECT_EQ(table.size(), 20001U);
  EXPECT(allocated_bytes() - before < 32 * bytes.size());
}

TEST(file_number_with_too_many_bytes) {
  Payload payload;
  for (int i = 0; i < 10; ++i) payload.byte(0x80);
  EXPECT_EQ(refusal(file_of(payload.bytes)), "damaged table file: a number has too many bytes");
}

// A file of one node with these values (tag and payload each) and spans.
std::vector<uint8_t> one_node(const std::vector<std::pair<Tag, uint32_t>>& values,
                              const std::vector<Span>& spans, uint64_t n_args, uint64_t n_kwargs) {
  Payload p;
  p.numbers({0, 0, 0, 0, 0});     // strings, expressions, symbols, ints, floats
  p.number(1).text("f").byte(0);  // targets
  p.number(values.size());
  for (const auto& [tag, payload] : values) p.byte(static_cast<uint8_t>(tag)).number(payload);
  p.number(spans.size());
  for (const Span span : spans) p.numbers({span.begin, span.count});
  p.numbers(
      {1, static_cast<uint64_t>(Op::kCallFunction), 0, 0, values.size(), n_args, n_kwargs, 0});
  p.numbers({0, 0, 0});  // dims, parts, metas
  return file_of(p.bytes);
}

TEST(file_of_one_nested_value_is_read) {
  const NodeTable t = read_table(
      one_node({{Tag::kList, 0}, {Tag::kTuple, 1}, {Tag::kNoneType, 0}}, {{1, 1}, {2, 1}}, 1, 0));
  EXPECT_EQ(t.format_value(t.args(0)[0]), "[(None)]");
}

TEST(file_with_a_container_in_itself) {
  const char* wanted = "damaged table file: a container holds what is not its own";
  EXPECT_EQ(refusal(one_node({{Tag::kList, 0}}, {{0, 1}}, 1, 0)), wanted);
  EXPECT_EQ(refusal(one_node({{Tag::kList, 0}, {Tag::kList, 1}}, {{1, 1}, {0, 1}}, 1, 0)), wanted);
  EXPECT_EQ(refusal(one_node({{Tag::kList, 0}, {Tag::kNoneType, 0}}, {{1, 1}}, 2, 0)), wanted);
}

// Each list holds the next one twice: decoded, it would have 2^n items.
TEST(file_with_a_value_in_two_containers) {
  EXPECT_EQ(
      refusal(one_node({{Tag::kList, 0}, {Tag::kList, 1}, {Tag::kList, 1}, {Tag::kNoneType, 0}},
                       {{1, 2}, {3, 1}}, 1, 0)),
      "damaged table file: a container holds what is not its own");
}

TEST(file_with_a_value_in_no_container) {
  EXPECT_EQ(refusal(one_node({{Tag::kNoneType, 0}, {Tag::kNoneType, 0}}, {}, 1, 0)),
            "damaged table file: a value that stands nowhere");
}

TEST(file_with_a_node_that_reads_itself) {
  EXPECT_EQ(refusal(one_node({{Tag::kNode, 0}}, {}, 1, 0)),
            "damaged table file: a node reads one that comes after it");
}

TEST(file_with_bad_values) {
  const char* outside = "damaged table file: an index points outside its pool";
  for (const Tag tag :
       {Tag::kInt, Tag::kFloat, Tag::kString, Tag::kDtype, Tag::kDevice, Tag::kConst, Tag::kOpaque,
        Tag::kExpr, Tag::kList, Tag::kTuple, Tag::kDict, Tag::kSlice}) {
    EXPECT_EQ(refusal(one_node({{tag, 0}}, {}, 1, 0)), outside);
  }
  EXPECT_EQ(refusal(one_node({{Tag::kTarget, 1}}, {}, 1, 0)), outside);
  EXPECT_EQ(refusal(one_node({{Tag::kBool, 2}}, {}, 1, 0)),
            "damaged table file: a truth value other than 0 and 1");
  EXPECT_EQ(refusal(one_node({{Tag::kNoneType, 1}}, {}, 1, 0)),
            "damaged table file: a None with a value");
  EXPECT_EQ(refusal(one_node({{static_cast<Tag>(kTagCount), 0}}, {}, 1, 0)),
            "damaged table file: an unknown kind of value");
  EXPECT_EQ(refusal(one_node({{Tag::kDict, 0}, {Tag::kNoneType, 0}}, {{1, 1}}, 1, 0)),
            "damaged table file: a dict with half a pair");
  EXPECT_EQ(refusal(one_node({{Tag::kSlice, 0}, {Tag::kNoneType, 0}}, {{1, 1}}, 1, 0)),
            "damaged table file: a slice without three parts");
  EXPECT_EQ(refusal(one_node({{Tag::kNoneType, 0}}, {}, 2, 0)),
            "damaged table file: a number is out of its range");
  EXPECT_EQ(refusal(one_node({{Tag::kNoneType, 0}}, {}, 0, 1)),
            "damaged table file: a node holds fewer values than it has operands");
  EXPECT_EQ(refusal(one_node({{Tag::kNoneType, 0}, {Tag::kNoneType, 0}}, {}, 0, 1)),
            "damaged table file: a keyword that is no string");
}

// A file without nodes, with these dims (raw) and metas.
struct RawMeta {
  MetaKind kind;
  Span dims;
  Span parts;
};
std::vector<uint8_t> only_metas(const std::vector<uint32_t>& parts,
                                const std::vector<RawMeta>& metas) {
  Payload p;
  p.numbers({0, 0, 0, 0, 0, 0, 0, 0, 0});
  p.numbers({2, 8, 16});  // dims 4 and 8, zigzag
  p.number(parts.size());
  for (const uint32_t part : parts) p.number(part);
  p.number(metas.size());
  for (const RawMeta& meta : metas) {
    p.byte(static_cast<uint8_t>(meta.kind)).numbers({0, 0, meta.dims.begin, meta.dims.count, 0});
    p.numbers({0, 0, meta.parts.begin, meta.parts.count});
  }
  return file_of(p.bytes);
}

TEST(file_with_bad_metas) {
  EXPECT_EQ(
      read_table(only_metas({0}, {{MetaKind::kSym, {0, 1}, {}}, {MetaKind::kTuple, {}, {0, 1}}}))
          .size(),
      0U);
  EXPECT_EQ(refusal(only_metas({}, {{MetaKind::kSym, {}, {}}})),
            "damaged table file: a number without its value");
  EXPECT_EQ(refusal(only_metas({}, {{MetaKind::kTensor, {1, 2}, {}}})),
            "damaged table file: a span points outside its pool");
  EXPECT_EQ(refusal(only_metas({0}, {{MetaKind::kTuple, {}, {0, 1}}})),
            "damaged table file: a tuple that holds what comes after it");
  EXPECT_EQ(refusal(only_metas({0}, {{MetaKind::kTuple, {}, {}}, {MetaKind::kTuple, {}, {0, 1}}})),
            "damaged table file: a tuple of tuples");
  EXPECT_EQ(refusal(only_metas({0}, {{MetaKind::kSym, {0, 1}, {0, 1}}})),
            "damaged table file: parts of what is no tuple");
  EXPECT_EQ(refusal(only_metas({}, {{static_cast<MetaKind>(kMetaKindCount), {}, {}}})),
            "damaged table file: an unknown kind of meta");
}

}  // namespace
}  // namespace spfast::testing
