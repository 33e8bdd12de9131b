// The strict safetensors reader: a length, a JSON header, the data. Every byte of the file belongs to exactly one
// tensor, every number is checked before it is used, and nothing is kept that the limits do not bound.
#include "checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <limits>
#include <numeric>

#include "config/json_text.h"

namespace fathom {
namespace {

long long printable(std::int64_t value) noexcept { return static_cast<long long>(value); }

/// Takes the header's events:  {"__metadata__": {key: text}, name: {"dtype": text, "shape": [n], "data_offsets": [b,
/// e]}}
class HeaderReceiver : public JsonReceiver {
 public:
  HeaderReceiver(const std::string& what, std::int64_t data_begin, std::int64_t data_bytes)
      : what_(what), data_begin_(data_begin), data_bytes_(data_bytes) {}
  TensorTable table;

  Status open(bool is_object) override {
    ++depth_;
    if (depth_ == 1) return {};
    if (depth_ == 2 && is_object) return {};
    if (depth_ == 2) return wrong_entry("a list");
    if (depth_ == 3 && !in_metadata_ && !is_object && (field_ == kShape || field_ == kOffsets)) return {};
    return wrong(is_object ? "an object" : "a list", expected());
  }

  Status close() override {
    --depth_;
    if (depth_ == 0) return {};
    if (depth_ == 1 && in_metadata_) return in_metadata_ = false, Status();
    return depth_ == 1 ? finish_tensor() : Status();
  }

  Status key(std::string_view key) override {
    if (depth_ == 1) return start_tensor(key);
    if (in_metadata_) {
      metadata_bytes_ += key.size();
      metadata_key_ = key;
      return check_metadata_bytes();
    }
    for (int field = 0; field < 3; ++field) {
      if (key != kFieldNames[field]) continue;
      if ((seen_ >> field & 1) != 0) return refuse("gives %s twice", kFieldNames[field]);
      seen_ |= 1 << field;
      field_ = field;
      return {};
    }
    return refuse("has the key %s, expected dtype, shape or data_offsets", in_quotes(key).c_str());
  }

  Status value(const JsonScalar& scalar) override {
    if (depth_ == 1) return wrong_entry(shown(scalar).c_str());
    if (in_metadata_) return add_metadata(scalar);
    if (depth_ == 2) return field_ == kDType ? set_dtype(scalar) : wrong(shown(scalar).c_str(), expected());
    constexpr std::uint64_t kMost = std::numeric_limits<std::int64_t>::max();
    if (scalar.kind != JsonScalar::Kind::natural || scalar.natural > kMost)
      return wrong(shown(scalar).c_str(), "an integer from 0");
    const auto number = static_cast<std::int64_t>(scalar.natural);
    if (field_ == kShape) {
      if (rank_ == kMostRank) return refuse("has a shape of more than %zu extents", kMostRank);
      shape_[rank_++] = number;
    } else {
      if (num_offsets_ == 2) return refuse("has more than 2 data_offsets");
      offsets_[num_offsets_++] = number;
    }
    return {};
  }

 private:
  static constexpr int kDType = 0, kShape = 1, kOffsets = 2;
  static constexpr const char* kFieldNames[] = {"dtype", "shape", "data_offsets"};

  const char* expected() const {
    if (in_metadata_ || field_ == kDType) return "a string";
    return field_ == kShape ? "a list of integers" : "a list of two integers";
  }

  template <class... Values>
  Status refuse(const char* format, Values... values) const {
    char text[400];
    if constexpr (sizeof...(values) == 0) {
      std::snprintf(text, sizeof(text), "%s", format);
    } else {
      std::snprintf(text, sizeof(text), format, values...);
    }
    return Status::invalid("%s: the tensor %s %s", what_.c_str(), in_quotes(name_).c_str(), text);
  }

  Status wrong_entry(const char* found) const {
    return Status::invalid("%s: the header's entry %s is %s, expected an object", what_.c_str(),
                           in_quotes(name_).c_str(), found);
  }

  Status wrong(const char* found, const char* wanted) const {
    if (in_metadata_) {
      return Status::invalid("%s: __metadata__ holds %s for %s, expected %s", what_.c_str(), found,
                             in_quotes(metadata_key_).c_str(), wanted);
    }
    return refuse("has %s in %s, expected %s", found, kFieldNames[field_], wanted);
  }

  Status start_tensor(std::string_view name) {
    name_ = name;
    if (name == "__metadata__") {
      if (has_metadata_) return Status::invalid("%s: the header gives __metadata__ twice", what_.c_str());
      in_metadata_ = has_metadata_ = true;
      return {};
    }
    seen_ = 0, rank_ = 0, num_offsets_ = 0;
    name_bytes_ += name.size();
    if (name_bytes_ > kMostNameBytes) {
      return Status::invalid("%s: the names take more than %zu bytes", what_.c_str(), kMostNameBytes);
    }
    if (table.places.size() == kMostTensors) {
      return Status::invalid("%s: the header names more than %zu tensors", what_.c_str(), kMostTensors);
    }
    return {};
  }

  Status set_dtype(const JsonScalar& scalar) {
    if (scalar.kind != JsonScalar::Kind::text) return wrong(shown(scalar).c_str(), expected());
    for (std::size_t i = 0; i < std::size(kFileDTypes); ++i) {
      if (scalar.text == kFileDTypes[i].name) return dtype_ = static_cast<std::uint8_t>(i), Status();
    }
    return refuse("has the unknown dtype %s", shown(scalar).c_str());
  }

  Status add_metadata(const JsonScalar& scalar) {
    if (scalar.kind != JsonScalar::Kind::text) return wrong(shown(scalar).c_str(), "a string");
    metadata_bytes_ += scalar.text.size() + 64;  // the map's own cost, so that empty texts count too
    FATHOM_TRY(check_metadata_bytes());
    if (!table.metadata.emplace(metadata_key_, scalar.text).second) {
      return Status::invalid("%s: __metadata__ gives %s twice", what_.c_str(), in_quotes(metadata_key_).c_str());
    }
    return {};
  }
  Status check_metadata_bytes() const {
    if (metadata_bytes_ <= kMostMetadataBytes) return {};
    return Status::invalid("%s: __metadata__ takes more than %zu bytes", what_.c_str(), kMostMetadataBytes);
  }

  Status finish_tensor() {
    for (int field = 0; field < 3; ++field) {
      if ((seen_ >> field & 1) == 0) return refuse("has no %s", kFieldNames[field]);
    }
    if (num_offsets_ != 2) return refuse("has %d data_offsets, expected 2", num_offsets_);
    const auto [begin, end] = offsets_;
    if (end < begin) return refuse("ends at byte %lld before it begins at %lld", printable(end), printable(begin));
    if (end > data_bytes_)
      return refuse("ends at byte %lld of %lld data bytes", printable(end), printable(data_bytes_));
    const FileDType& dtype = kFileDTypes[dtype_];
    const std::int64_t bits = bits_of_shape({shape_.data(), rank_}, dtype.bits);
    if (bits < 0) return refuse("has a shape whose size overflows 63 bits");
    if (bits % 8 != 0) return refuse("takes %lld bits of %s, expected whole bytes", printable(bits), dtype.name);
    if (bits / 8 != end - begin) {
      return refuse("takes %lld bytes by dtype and shape, but %lld by data_offsets", printable(bits / 8),
                    printable(end - begin));
    }
    TensorPlace place;
    place.name = name_;
    place.begin = data_begin_ + begin;
    place.bytes = end - begin;
    place.first_extent = static_cast<std::uint32_t>(table.extents.size());
    place.dtype = dtype_;
    place.rank = static_cast<std::uint8_t>(rank_);
    table.extents.insert(table.extents.end(), shape_.begin(), shape_.begin() + rank_);
    table.places.push_back(std::move(place));
    return {};
  }

  const std::string& what_;
  const std::int64_t data_begin_, data_bytes_;
  int depth_ = 0;
  bool in_metadata_ = false, has_metadata_ = false;
  std::size_t name_bytes_ = 0, metadata_bytes_ = 0;
  std::string metadata_key_;
  // The entry being read.
  std::string name_;
  int field_ = 0;  ///< the key whose value comes next
  int seen_ = 0;   ///< one bit for each key
  std::uint8_t dtype_ = 0;
  std::size_t rank_ = 0;
  std::array<std::int64_t, kMostRank> shape_{};
  int num_offsets_ = 0;
  std::array<std::int64_t, 2> offsets_{};
};

/// Every data byte belongs to exactly one tensor: no overlap (a small file would unpack into a large model), no hole
/// and no tail (something else could hide there).
Status check_cover(const std::string& what, const TensorTable& table, std::int64_t data_begin,
                   std::int64_t file_bytes) {
  std::vector<std::uint32_t> order(table.places.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    const TensorPlace &left = table.places[a], &right = table.places[b];
    return std::pair(left.begin, left.bytes) < std::pair(right.begin, right.bytes);
  });
  std::int64_t at = data_begin;
  for (const std::uint32_t i : order) {
    const TensorPlace& place = table.places[i];
    if (place.begin < at) {
      return Status::invalid("%s: the tensor %s overlaps the one before it by %lld bytes", what.c_str(),
                             in_quotes(place.name).c_str(), printable(at - place.begin));
    }
    if (place.begin > at) {
      return Status::invalid("%s: %lld bytes before the tensor %s belong to none (a hole)", what.c_str(),
                             printable(place.begin - at), in_quotes(place.name).c_str());
    }
    at += place.bytes;
  }
  if (at == file_bytes) return {};
  return Status::invalid("%s: the last %lld bytes belong to no tensor", what.c_str(), printable(file_bytes - at));
}

/// The header's length, or why this is no safetensors file.
Result<std::int64_t> header_length(const RegularFile& file) {
  const char *what = file.what(), *path = file.path().c_str();
  constexpr char kPointer[] = "version https://git-lfs.github.com/spec/";
  char start[sizeof(kPointer)] = {};
  const std::int64_t count = std::min<std::int64_t>(file.size(), sizeof(kPointer) - 1);
  FATHOM_TRY(file.read_at(0, start, count));
  if (std::memcmp(start, kPointer, sizeof(kPointer) - 1) == 0) {
    return Status::invalid("%s: %s is a git-LFS pointer, not the file itself; fetch it with `git lfs pull`", what,
                           path);
  }
  if (file.size() < 8) {
    return Status::invalid("%s: %s has %lld bytes, expected at least the 8 of the header's length", what, path,
                           printable(file.size()));
  }
  std::uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<unsigned char>(start[i]);
  if (length > static_cast<std::uint64_t>(kMostHeaderBytes)) {
    return Status::invalid("%s: %s: the header's length is %llu, expected at most %lld", what, path,
                           static_cast<unsigned long long>(length), printable(kMostHeaderBytes));
  }
  if (static_cast<std::int64_t>(length) > file.size() - 8) {
    return Status::invalid("%s: %s: the header's length is %llu, but only %lld bytes follow", what, path,
                           static_cast<unsigned long long>(length), printable(file.size() - 8));
  }
  if (length == 0 || start[8] != '{') return Status::invalid("%s: %s: the header does not start with '{'", what, path);
  return static_cast<std::int64_t>(length);
}

}  // namespace

std::int64_t bits_of_shape(std::span<const std::int64_t> shape, int element_bits) noexcept {
  std::int64_t bits = element_bits;
  bool overflow = false, is_empty = false;
  for (const std::int64_t extent : shape) {
    // A zero extent must not hide that the others overflow: whoever multiplies them in another order would trip.
    overflow |= extent < 0 || __builtin_mul_overflow(bits, std::max<std::int64_t>(extent, 1), &bits);
    is_empty |= extent == 0;
  }
  return overflow ? -1 : is_empty ? 0 : bits;
}

Result<TensorTable> read_header(const std::string& what, const JsonSource& source, std::int64_t header_bytes,
                                std::int64_t data_bytes) {
  const std::int64_t data_begin = 8 + header_bytes;
  HeaderReceiver receiver(what, data_begin, data_bytes);
  JsonLimits limits;
  limits.depth = 3;
  FATHOM_TRY(read_json(what + ": the header", source, limits, receiver));
  TensorTable& table = receiver.table;
  std::sort(table.places.begin(), table.places.end(),
            [](const TensorPlace& a, const TensorPlace& b) { return a.name < b.name; });
  for (std::size_t i = 1; i < table.places.size(); ++i) {
    if (table.places[i].name == table.places[i - 1].name) {
      return Status::invalid("%s: the header names the tensor %s twice", what.c_str(),
                             in_quotes(table.places[i].name).c_str());
    }
  }
  FATHOM_TRY(check_cover(what, table, data_begin, data_begin + data_bytes));
  return std::move(table);
}

Result<TensorTable> read_tensor_table(const RegularFile& file) {
  FATHOM_ASSIGN(const std::int64_t length, header_length(file));
  std::int64_t at = 8;
  const JsonSource source = [&](char* buffer, std::size_t bytes) -> Result<std::size_t> {
    const std::int64_t count = std::min<std::int64_t>(static_cast<std::int64_t>(bytes), 8 + length - at);
    FATHOM_TRY(file.read_at(at, buffer, count));
    at += count;
    return static_cast<std::size_t>(count);
  };
  return read_header(std::string(file.what()) + ": " + file.path(), source, length, file.size() - 8 - length);
}

}  // namespace fathom
