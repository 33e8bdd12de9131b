// The header of a safetensors file, checked in full before any of it is used.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "config/json_text.h"
#include "config/regular_file.h"
#include "fathom/core/status.h"

namespace fathom {

/// Element types of safetensors files, with the format's own names.
struct FileDType {
  const char* name;
  int bits;
};
inline constexpr FileDType kFileDTypes[] = {
    {"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},   {"I8", 8},    {"F8_E5M2", 8},
    {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16}, {"BF16", 16}, {"I32", 32},
    {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},    {"I64", 64}, {"U64", 64},
};

// Limits. The format itself allows headers of 100,000,000 bytes; the largest released checkpoint, were it one file,
// would need 20 MB for 146,000 tensors. Within these limits a hostile header costs less than 64 MiB and a second.
inline constexpr std::int64_t kMostHeaderBytes = std::int64_t{32} << 20;
inline constexpr std::size_t kMostTensors = 262144;
inline constexpr std::size_t kMostNameBytes = std::size_t{16} << 20;     ///< of all names of a file together
inline constexpr std::size_t kMostMetadataBytes = std::size_t{4} << 20;  ///< of the `__metadata__` map
inline constexpr std::size_t kMostRank = 8;

/// Where one tensor lies. Extents stand in a vector shared by all, since a header may name very many tensors.
struct TensorPlace {
  std::string name;
  std::int64_t begin = 0;  ///< byte of the file
  std::int64_t bytes = 0;
  std::uint32_t first_extent = 0;
  std::uint16_t file = 0;
  std::uint8_t dtype = 0;  ///< of kFileDTypes
  std::uint8_t rank = 0;
};

struct TensorTable {
  std::vector<TensorPlace> places;  ///< by name
  std::vector<std::int64_t> extents;
  std::map<std::string, std::string, std::less<>> metadata;
};

/// Bits of a dense tensor; -1 where the extents overflow 63 bits, also where a zero among them makes the tensor empty.
std::int64_t bits_of_shape(std::span<const std::int64_t> shape, int element_bits) noexcept;

/// Checks a header of `header_bytes` bytes with `data_bytes` of data behind it, as the reader and the writer both do.
/// Statuses start with "`what`: ".
Result<TensorTable> read_header(const std::string& what, const JsonSource& source, std::int64_t header_bytes,
                                std::int64_t data_bytes);

/// Reads and checks the header of `file`; every place's `file` is 0. Statuses start as the file's do.
Result<TensorTable> read_tensor_table(const RegularFile& file);

}  // namespace fathom
