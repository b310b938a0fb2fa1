// The reader of table files. The checksum is made right first: it keeps damage out, not malice.
// What is read must be whole: every index leads somewhere, and writing it gives a file that reads
// the same.
#include <cstdlib>

#include "base/check.h"
#include "table/targets.h"
#include "table_file.h"

using namespace spfast;

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

size_t walk(const NodeTable& table) {
  size_t length = 0;
  for (NodeId node = 0; node < table.size(); ++node) {
    length += table.node_label(node).size() + target_name(table.target(node)).size();
    for (const Argument value : table.operands(node)) length += table.format_value(value).size();
    for (const NodeId user : table.users(node)) require(user > node);
    const Meta& meta = table.meta(node);
    length +=
        table.format_dims(table.dims(meta)).size() + table.format_dims(table.strides(meta)).size();
    for (const uint32_t part : table.parts(meta)) {
      length += table.dims(table.meta_at(part)).size();
    }
    for (const uint32_t id : {meta.dtype, meta.device}) {
      if (id != kNone) length += table.string(id).size();
    }
    if (meta.kind == MetaKind::kSym) length += table.format_dims(table.dims(meta).first(1)).size();
  }
  for (const auto& [name, hint] : table.symbols()) length += table.string(name).size();
  return length + table.memory_bytes();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::vector<uint8_t> raw(data, data + size);
  try {
    (void)read_table(raw);
  } catch (const FileFormatError&) {
  }
  std::vector<uint8_t> file = testing::file_of(raw);
  if (size > testing::kHeaderBytes && data[0] == 'S' && data[1] == 'P') {
    file = raw;  // a whole file of the corpus
    file[4] = static_cast<uint8_t>(kFileVersion);
    testing::sign(file);
  }
  try {
    const NodeTable table = read_table(file);
    const size_t length = walk(table);
    const auto again = write_table(table);
    const NodeTable back = read_table(again);
    require(back.size() == table.size());
    require(write_table(back) == again);
    (void)length;
  } catch (const FileFormatError&) {
  }
  return 0;
}
