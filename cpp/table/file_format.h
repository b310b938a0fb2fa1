// A table as bytes: "SPFX", version, payload length, CRC-32 of the payload, payload. Integers are
// little-endian; counts and ids are LEB128, so that a node costs a few bytes. A reader trusts
// nothing: every count is checked against the bytes that are left before memory is taken for it,
// and every id against the pool that it points into.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "table/node_table.h"

namespace spfast {

inline constexpr uint32_t kFileVersion = 1;

[[nodiscard]] std::vector<uint8_t> write_table(const NodeTable& table);
// Raises FileFormatError.
[[nodiscard]] NodeTable read_table(std::span<const uint8_t> bytes);

}  // namespace spfast
