// Writes safetensors files that the strict reader takes: names in JSON, wide elements first so that all are aligned,
// and a rename at the end so that nobody ever sees half a file.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <span>
#include <system_error>
#include <utility>

#include "checkpoint/safetensors.h"
#include "config/json_text.h"
#include "fathom/checkpoint.h"

namespace fathom {
namespace {

const char* file_dtype(DType dtype) noexcept {
  switch (dtype) {
    case DType::f32:
      return "F32";
    case DType::bf16:
      return "BF16";
    case DType::e4m3:
      return "F8_E4M3";
    case DType::e2m1x2:
      return "F4";
    case DType::ue8m0:
      return "F8_E8M0";
    case DType::i32:
      return "I32";
    case DType::i64:
      return "I64";
    case DType::u8:
      return "U8";
  }
  return nullptr;
}

int bits_of_file_dtype(const std::string& name) noexcept {
  for (const FileDType& dtype : kFileDTypes) {
    if (name == dtype.name) return dtype.bits;
  }
  return 0;
}

Status check_view(const std::string& name, const TensorView& tensor) {
  const char* shown_name = name.c_str();
  if (tensor.rank < 1 || tensor.rank > TensorView::kMaxRank) {
    return Status::invalid("tensor_writer: %s has rank %d, expected 1 to %d", shown_name, tensor.rank,
                           TensorView::kMaxRank);
  }
  if (tensor.device != DeviceKind::cpu)
    return Status::invalid("tensor_writer: %s lies on cuda, expected cpu", shown_name);
  if (static_cast<int>(tensor.dtype) >= kDTypeCount)
    return Status::invalid("tensor_writer: %s has no known dtype", shown_name);
  const std::span<const std::int64_t> shape{tensor.shape.data(), static_cast<std::size_t>(tensor.rank)};
  for (const std::int64_t extent : shape) {
    if (extent >= 0) continue;
    return Status::invalid("tensor_writer: %s has the extent %lld, expected none below 0", shown_name,
                           static_cast<long long>(extent));
  }
  const std::int64_t bits = bits_of_shape(shape, bits_of(tensor.dtype));
  if (bits < 0) return Status::invalid("tensor_writer: %s has a shape whose size overflows 63 bits", shown_name);
  if (bits != 0 && tensor.data == nullptr) return Status::invalid("tensor_writer: %s has null data", shown_name);
  const int last = tensor.rank - 1;
  if (tensor.dtype == DType::e2m1x2 && (tensor.strides[last] != 1 || tensor.shape[last] % 2 != 0)) {
    return Status::invalid("tensor_writer: %s packs two elements a byte, expected dense rows of an even number of them",
                           shown_name);
  }
  return {};
}

/// `text` as a JSON string that the reader takes; `what` names it in the status.
Result<std::string> header_string(const char* what, std::string_view text) {
  auto json = json_string(text);
  if (!json.ok()) return Status::invalid("tensor_writer: the %s %s is not UTF-8", what, in_quotes(text).c_str());
  constexpr std::int64_t kMost = JsonLimits{}.token_bytes;
  if (static_cast<std::int64_t>(json.value().size()) > kMost) {
    return Status::invalid("tensor_writer: the %s %s takes %zu bytes as JSON, expected at most %lld", what,
                           in_quotes(text).c_str(), json.value().size(), static_cast<long long>(kMost));
  }
  return json;
}

/// Copies the elements at and below dimension `dim`, starting `first` elements from the view's address.
void copy_elements(const TensorView& tensor, int dim, std::int64_t first, std::byte*& to) {
  const auto* from = static_cast<const std::byte*>(tensor.data);
  const int last = tensor.rank - 1;
  if (dim == last && tensor.strides[last] == 1) {
    const auto bytes = static_cast<std::size_t>(bytes_of(tensor.dtype, tensor.shape[last]));
    if (bytes > 0) std::memcpy(to, from + first * bits_of(tensor.dtype) / 8, bytes);
    to += bytes;
    return;
  }
  for (std::int64_t i = 0; i < tensor.shape[dim]; ++i) {
    const std::int64_t at = first + i * tensor.strides[dim];
    if (dim < last) {
      copy_elements(tensor, dim + 1, at, to);
    } else {
      const int bytes = bits_of(tensor.dtype) / 8;
      std::memcpy(to, from + at * bytes, static_cast<std::size_t>(bytes));
      to += bytes;
    }
  }
}

Status write_failed(const std::string& path, int error) {
  const std::string why = std::generic_category().message(error);
  if (error == ENOSPC || error == EDQUOT)
    return Status::exhausted("tensor_writer: writing %s failed: %s", path.c_str(), why.c_str());
  return Status::device_error("tensor_writer: writing %s failed: %s", path.c_str(), why.c_str());
}

/// A new file that disappears unless it is moved to its final name.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& target) : target_(target) {
    static std::atomic<unsigned> count{0};
    path_ = target + ".partial-" + std::to_string(::getpid()) + "-" + std::to_string(count++);
    descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ < 0) error_ = errno;
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    if (descriptor_ < 0) return;
    ::close(descriptor_);
    ::unlink(path_.c_str());
  }

  Status status() const {
    if (descriptor_ >= 0) return {};
    return Status::invalid("tensor_writer: cannot create a file beside %s: %s", target_.c_str(),
                           std::generic_category().message(error_).c_str());
  }
  Status write(const void* data, std::size_t bytes) {
    const auto* from = static_cast<const char*>(data);
    while (bytes > 0) {
      const ssize_t count = ::write(descriptor_, from, std::min(bytes, std::size_t{1} << 30));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return write_failed(target_, errno);
      from += count, bytes -= static_cast<std::size_t>(count);
    }
    return {};
  }
  /// Synced first: a rename that survives a crash must not point at data that did not.
  Status move_to_target() {
    if (::fsync(descriptor_) != 0 || ::rename(path_.c_str(), target_.c_str()) != 0) return write_failed(target_, errno);
    ::close(std::exchange(descriptor_, -1));
    return {};
  }

 private:
  std::string target_, path_;
  int descriptor_ = -1;
  int error_ = 0;
};

}  // namespace

Status TensorWriter::add(std::string_view name, const TensorView& tensor) noexcept {
  return guarded("tensor_writer", [&]() -> Status {
    const std::string shown_name = in_quotes(name);
    if (name == "__metadata__") return Status::invalid("tensor_writer: a tensor cannot be called __metadata__");
    FATHOM_TRY(header_string("name", name).status());
    for (const Item& item : items_) {
      if (item.name == name) return Status::invalid("tensor_writer: the tensor %s is added twice", shown_name.c_str());
    }
    FATHOM_TRY(check_view(shown_name, tensor));
    Item item{
        std::string(name), file_dtype(tensor.dtype), {tensor.shape.begin(), tensor.shape.begin() + tensor.rank}, {}};
    item.bytes.resize(static_cast<std::size_t>(bytes_of(tensor.dtype, tensor.numel())));
    std::byte* to = item.bytes.data();
    if (!item.bytes.empty()) copy_elements(tensor, 0, 0, to);
    items_.push_back(std::move(item));
    return {};
  });
}

Status TensorWriter::set_metadata(std::string_view key, std::string_view value) noexcept {
  return guarded("tensor_writer", [&]() -> Status {
    FATHOM_TRY(header_string("metadata key", key).status());
    FATHOM_TRY(header_string("metadata value", value).status());
    for (auto& [known, text] : metadata_) {
      if (known == key) return text = value, Status();
    }
    metadata_.emplace_back(key, value);
    return {};
  });
}

Status TensorWriter::write(const std::string& path) const noexcept {
  return guarded("tensor_writer", [&]() -> Status {
    std::vector<const Item*> order;
    for (const Item& item : items_) order.push_back(&item);
    std::stable_sort(order.begin(), order.end(), [](const Item* a, const Item* b) {
      return bits_of_file_dtype(a->dtype) > bits_of_file_dtype(b->dtype);
    });
    std::string header = "{";
    const auto separate = [&] { header += header.size() > 1 ? "," : ""; };
    if (!metadata_.empty()) {
      header += "\"__metadata__\":{";
      for (std::size_t i = 0; i < metadata_.size(); ++i) {
        FATHOM_ASSIGN(const std::string key, header_string("metadata key", metadata_[i].first));
        FATHOM_ASSIGN(const std::string value, header_string("metadata value", metadata_[i].second));
        header += (i > 0 ? "," : "") + key + ":" + value;
      }
      header += "}";
    }
    std::size_t offset = 0;
    for (const Item* item : order) {
      separate();
      FATHOM_ASSIGN(const std::string name, header_string("name", item->name));
      header += name + ":{\"dtype\":\"" + item->dtype + "\",\"shape\":[";
      for (std::size_t i = 0; i < item->shape.size(); ++i)
        header += (i > 0 ? "," : "") + std::to_string(item->shape[i]);
      header +=
          "],\"data_offsets\":[" + std::to_string(offset) + "," + std::to_string(offset + item->bytes.size()) + "]}";
      offset += item->bytes.size();
    }
    header += "}";
    header.append((8 - header.size() % 8) % 8, ' ');
    const auto header_bytes = static_cast<std::int64_t>(header.size());
    if (header_bytes > kMostHeaderBytes) {
      return Status::invalid("tensor_writer: the header of %s takes %lld bytes, expected at most %lld", path.c_str(),
                             static_cast<long long>(header_bytes), static_cast<long long>(kMostHeaderBytes));
    }
    // The reader itself is asked, so that no limit of a whole file has to be kept in two places.
    FATHOM_TRY(read_header("tensor_writer: " + path, json_source(header), header_bytes,
                           static_cast<std::int64_t>(offset))
                   .status());

    TemporaryFile file(path);
    FATHOM_TRY(file.status());
    unsigned char length[8];
    for (int i = 0; i < 8; ++i) length[i] = static_cast<unsigned char>(std::uint64_t{header.size()} >> 8 * i);
    FATHOM_TRY(file.write(length, sizeof(length)));
    FATHOM_TRY(file.write(header.data(), header.size()));
    for (const Item* item : order) FATHOM_TRY(file.write(item->bytes.data(), item->bytes.size()));
    return file.move_to_target();
  });
}

}  // namespace fathom
