// Table files by hand: a payload written number by number, under a header that is right.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <vector>

#include "table/file_format.h"

namespace spfast::testing {

inline constexpr size_t kHeaderBytes = 20;

class Payload {
 public:
  Payload& number(uint64_t value) {
    while (value >= 0x80) {
      byte(static_cast<uint8_t>(value | 0x80));
      value >>= 7;
    }
    return byte(static_cast<uint8_t>(value));
  }
  Payload& numbers(std::initializer_list<uint64_t> values) {
    for (const uint64_t value : values) number(value);
    return *this;
  }
  Payload& byte(uint8_t value) {
    bytes.push_back(value);
    return *this;
  }
  Payload& text(std::string_view value) {
    number(value.size());
    bytes.insert(bytes.end(), value.begin(), value.end());
    return *this;
  }
  std::vector<uint8_t> bytes;
};

// The checksum bit by bit: an oracle for the table-driven one.
inline uint32_t slow_crc32(const uint8_t* data, size_t size) {
  uint32_t crc = 0xFFFFFFFFU;
  for (size_t i = 0; i < size; ++i) {
    crc ^= data[i];
    for (int k = 0; k < 8; ++k) crc = (crc & 1U) != 0 ? 0xEDB88320U ^ (crc >> 1) : crc >> 1;
  }
  return crc ^ 0xFFFFFFFFU;
}

// The header as the payload behind it needs it, so that a damaged payload meets the reader itself.
inline void sign(std::vector<uint8_t>& file) {
  const uint64_t length = file.size() - kHeaderBytes;
  for (size_t i = 0; i < 8; ++i) file[8 + i] = static_cast<uint8_t>(length >> (8 * i));
  const uint32_t crc = slow_crc32(file.data() + kHeaderBytes, length);
  for (size_t i = 0; i < 4; ++i) file[16 + i] = static_cast<uint8_t>(crc >> (8 * i));
}

inline std::vector<uint8_t> file_of(const std::vector<uint8_t>& payload) {
  std::vector<uint8_t> file(kHeaderBytes + payload.size());
  const uint8_t start[] = {'S', 'P', 'F', 'X', static_cast<uint8_t>(kFileVersion)};
  std::copy(std::begin(start), std::end(start), file.begin());
  std::copy(payload.begin(), payload.end(), file.begin() + kHeaderBytes);
  sign(file);
  return file;
}

}  // namespace spfast::testing
