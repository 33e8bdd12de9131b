// A checkpoint: the tables of its files put together, and tensors read on demand.
#include "fathom/checkpoint.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "checkpoint/aligned_bytes.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/shards.h"
#include "config/json_text.h"

namespace fathom {

struct FATHOM_HIDDEN Checkpoint::Impl {
  std::string what;  ///< how statuses start
  std::vector<RegularFile> files;
  std::vector<std::string> names;   ///< sorted
  std::vector<TensorPlace> places;  ///< alike; their names have moved to `names`
  std::vector<std::int64_t> extents;
  std::map<std::string, std::string, std::less<>> metadata;
  std::mutex mutex;
  std::unordered_map<std::size_t, AlignedBytes> read;  ///< data of tensors that were asked for

  std::optional<std::size_t> find(std::string_view name) const noexcept {
    const auto found = std::lower_bound(names.begin(), names.end(), name);
    if (found == names.end() || *found != name) return std::nullopt;
    return static_cast<std::size_t>(found - names.begin());
  }

  FileTensor describe(std::size_t index) const {
    const TensorPlace& place = places[index];
    const auto first = extents.begin() + place.first_extent;
    return {names[index], kFileDTypes[place.dtype].name, {first, first + place.rank}, nullptr, place.bytes};
  }
};

namespace {

constexpr const char* kNothingOpen = "checkpoint";  ///< what an object that opened nothing calls itself

Status no_tensor(const char* what, std::string_view name) {
  return Status::invalid("%s: there is no tensor %s", what, in_quotes(name).c_str());
}

/// Adds one file's table to the whole, whose extents are shared.
Status append(const char* what, TensorTable&& part, std::size_t file, TensorTable* whole) {
  if (whole->places.size() + part.places.size() > kMostTensors) {
    return Status::invalid("%s: the files hold more than %zu tensors together", what, kMostTensors);
  }
  const auto first = static_cast<std::uint32_t>(whole->extents.size());
  whole->extents.insert(whole->extents.end(), part.extents.begin(), part.extents.end());
  for (TensorPlace& place : part.places) {
    place.first_extent += first;
    place.file = static_cast<std::uint16_t>(file);
    whole->places.push_back(std::move(place));
  }
  whole->metadata.merge(part.metadata);
  return {};
}

/// Index and files must tell the same.
Status check_index(const char* what, const ShardList& shards, const std::vector<TensorPlace>& places) {
  std::size_t next = 0;
  for (const auto& [name, file] : shards.named) {
    if (next < places.size() && places[next].name < name) break;
    if (next == places.size() || places[next].name != name || places[next].file != file) {
      return Status::invalid("%s: %s puts the tensor %s into %s, which does not hold it", what,
                             shards.index_path.c_str(), in_quotes(name).c_str(), shards.paths[file].c_str());
    }
    ++next;
  }
  if (next == places.size()) return {};
  return Status::invalid("%s: %s holds the tensor %s, which %s does not name", what,
                         shards.paths[places[next].file].c_str(), in_quotes(places[next].name).c_str(),
                         shards.index_path.c_str());
}

}  // namespace

Result<Checkpoint> Checkpoint::open(const std::string& path, std::string_view name) noexcept {
  return guarded("checkpoint", [&]() -> Result<Checkpoint> {
    auto impl = std::make_shared<Impl>();
    impl->what = name;
    const char* what = impl->what.c_str();
    FATHOM_ASSIGN(const ShardList shards, find_shards(what, path));
    TensorTable whole;
    for (std::size_t i = 0; i < shards.paths.size(); ++i) {
      FATHOM_ASSIGN(RegularFile file, RegularFile::open(what, shards.paths[i]));
      FATHOM_ASSIGN(TensorTable part, read_tensor_table(file));
      FATHOM_TRY(append(what, std::move(part), i, &whole));
      impl->files.push_back(std::move(file));
    }
    std::vector<TensorPlace>& places = whole.places;
    std::sort(places.begin(), places.end(), [](const TensorPlace& a, const TensorPlace& b) { return a.name < b.name; });
    for (std::size_t i = 1; i < places.size(); ++i) {
      if (places[i].name != places[i - 1].name) continue;
      return Status::invalid("%s: the tensor %s stands in %s and in %s", what, in_quotes(places[i].name).c_str(),
                             shards.paths[places[i - 1].file].c_str(), shards.paths[places[i].file].c_str());
    }
    if (!shards.index_path.empty()) FATHOM_TRY(check_index(what, shards, places));
    impl->names.reserve(places.size());
    for (TensorPlace& place : places) impl->names.push_back(std::move(place.name));
    impl->places = std::move(places);
    impl->extents = std::move(whole.extents);
    impl->metadata = std::move(whole.metadata);
    Checkpoint checkpoint;
    checkpoint.impl_ = std::move(impl);
    return checkpoint;
  });
}

const std::vector<std::string>& Checkpoint::names() const noexcept {
  static const std::vector<std::string> kNone;
  return impl_ == nullptr ? kNone : impl_->names;
}

bool Checkpoint::has(std::string_view name) const noexcept { return impl_ != nullptr && impl_->find(name).has_value(); }

Result<FileTensor> Checkpoint::describe(std::string_view name) const noexcept {
  const char* what = impl_ == nullptr ? kNothingOpen : impl_->what.c_str();
  return guarded(what, [&]() -> Result<FileTensor> {
    const auto index = impl_ == nullptr ? std::nullopt : impl_->find(name);
    if (!index) return no_tensor(what, name);
    return impl_->describe(*index);
  });
}

Result<FileTensor> Checkpoint::tensor(std::string_view name) const noexcept {
  const char* what = impl_ == nullptr ? kNothingOpen : impl_->what.c_str();
  return guarded(what, [&]() -> Result<FileTensor> {
    const auto index = impl_ == nullptr ? std::nullopt : impl_->find(name);
    if (!index) return no_tensor(what, name);
    FileTensor tensor = impl_->describe(*index);
    const std::lock_guard lock(impl_->mutex);
    auto data = impl_->read.find(*index);
    if (data == impl_->read.end()) {
      AlignedBytes bytes = aligned_bytes(tensor.bytes);
      const TensorPlace& place = impl_->places[*index];
      FATHOM_TRY(impl_->files[place.file].read_at(place.begin, bytes.get(), place.bytes));
      data = impl_->read.emplace(*index, std::move(bytes)).first;
    }
    tensor.data = data->second.get();
    return tensor;
  });
}

Status Checkpoint::read(std::string_view name, std::int64_t offset, void* out, std::int64_t bytes) const noexcept {
  const char* what = impl_ == nullptr ? kNothingOpen : impl_->what.c_str();
  return guarded(what, [&]() -> Status {
    const auto index = impl_ == nullptr ? std::nullopt : impl_->find(name);
    if (!index) return no_tensor(what, name);
    const TensorPlace& place = impl_->places[*index];
    if (offset < 0 || bytes < 0 || offset > place.bytes || bytes > place.bytes - offset) {
      return Status::invalid("%s: %lld bytes from byte %lld of the tensor %s asked for, which has %lld", what,
                             static_cast<long long>(bytes), static_cast<long long>(offset), in_quotes(name).c_str(),
                             static_cast<long long>(place.bytes));
    }
    if (bytes == 0) return {};
    if (out == nullptr)
      return Status::invalid("%s: out is null, expected room for %lld bytes", what, static_cast<long long>(bytes));
    return impl_->files[place.file].read_at(place.begin + offset, out, bytes);
  });
}

const std::string& Checkpoint::metadata(std::string_view key) const noexcept {
  static const std::string kNone;
  if (impl_ == nullptr) return kNone;
  const auto found = impl_->metadata.find(key);
  return found == impl_->metadata.end() ? kNone : found->second;
}

Result<TensorView> tensor_view(const FileTensor& tensor) noexcept {
  return guarded("tensor_view", [&]() -> Result<TensorView> {
    constexpr struct {
      const char* name;
      DType dtype;
    } kDTypesOfFiles[] = {{"F32", DType::f32},   {"BF16", DType::bf16},     {"F8_E4M3", DType::e4m3},
                          {"F4", DType::e2m1x2}, {"F8_E8M0", DType::ue8m0}, {"I32", DType::i32},
                          {"I64", DType::i64},   {"U8", DType::u8}};
    const auto rank = static_cast<int>(tensor.shape.size());
    if (rank < 1 || rank > TensorView::kMaxRank) {
      return Status::unsupported("tensor_view: %s has rank %d, expected 1 to %d", in_quotes(tensor.name).c_str(), rank,
                                 TensorView::kMaxRank);
    }
    for (const auto& known : kDTypesOfFiles) {
      if (tensor.dtype != known.name) continue;
      if (known.dtype == DType::e2m1x2 && tensor.shape.back() % 2 != 0) {
        return Status::unsupported(
            "tensor_view: %s has rows of %lld F4 elements, expected an even number (whole bytes)",
            in_quotes(tensor.name).c_str(), static_cast<long long>(tensor.shape.back()));
      }
      TensorView result = view(tensor.data, known.dtype, {});
      result.rank = rank;
      std::int64_t stride = 1;
      for (int i = rank - 1; i >= 0; --i) {
        result.shape[i] = tensor.shape[static_cast<std::size_t>(i)];
        result.strides[i] = stride;
        stride *= result.shape[i];
      }
      return result;
    }
    return Status::unsupported("tensor_view: %s has dtype %s, expected F32, BF16, F8_E4M3, F8_E8M0, F4, I32, I64 or U8",
                               in_quotes(tensor.name).c_str(), tensor.dtype.c_str());
  });
}

}  // namespace fathom
