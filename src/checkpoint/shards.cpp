// Index files and folders. Names in an index are a stranger's: only plain names beside the index are opened.
#include "checkpoint/shards.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <memory>
#include <system_error>

#include "checkpoint/safetensors.h"
#include "config/json_text.h"
#include "config/regular_file.h"

namespace fathom {
namespace {

constexpr std::int64_t kMostIndexBytes = std::int64_t{64} << 20;

/// Takes an index: {"metadata": anything, "weight_map": {tensor: file}}.
class IndexReceiver : public JsonReceiver {
 public:
  IndexReceiver(const char* what, const std::string& path) : what_(what), path_(path) {}
  std::vector<std::pair<std::string, std::uint16_t>> named;
  std::map<std::string, std::uint16_t, std::less<>> files;
  bool has_map = false;

  Status open(bool is_object) override {
    ++depth_;
    if (depth_ == 1 && !is_object) return refuse("is a list, expected an object");
    if (depth_ == 2 && in_map_ && !is_object) return refuse("has a list as weight_map, expected an object");
    if (depth_ == 3 && in_map_) return refuse("maps a tensor to a list or an object, expected a file name");
    return {};
  }
  Status close() override {
    --depth_;
    return {};
  }
  Status key(std::string_view key) override {
    if (depth_ == 1) {
      in_map_ = key == "weight_map";
      if (in_map_ && has_map) return refuse("gives weight_map twice");
      has_map |= in_map_;
    } else if (depth_ == 2 && in_map_) {
      name_bytes_ += key.size();
      if (name_bytes_ > kMostNameBytes) return refuse("names tensors with more than 16 MiB of text");
      if (named.size() == kMostTensors) return refuse("names more than 262144 tensors");
      named.emplace_back(key, 0);
    }
    return {};
  }
  Status value(const JsonScalar& scalar) override {
    if (!in_map_) return {};
    if (depth_ == 1) return refuse(("has " + shown(scalar) + " as weight_map, expected an object").c_str());
    if (scalar.kind != JsonScalar::Kind::text)
      return refuse(("maps a tensor to " + shown(scalar) + ", expected a file name").c_str());
    auto file = files.find(scalar.text);
    if (file == files.end()) {
      FATHOM_TRY(check_file_name(scalar.text));
      if (files.size() == kMostFiles) return refuse("names more than 512 files");
      file = files.emplace(scalar.text, static_cast<std::uint16_t>(files.size())).first;
    }
    named.back().second = file->second;
    return {};
  }

 private:
  Status refuse(const char* what) const { return Status::invalid("%s: %s %s", what_, path_.c_str(), what); }

  /// Shards lie beside the index; a path could lead anywhere.
  Status check_file_name(std::string_view name) const {
    constexpr std::string_view kSuffix = ".safetensors";
    constexpr std::size_t kMostBytes = 255;
    if (name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos && name.size() > kSuffix.size() &&
        name.size() <= kMostBytes && name.ends_with(kSuffix)) {
      return {};
    }
    return refuse(("names the file " + in_quotes(name) + ", expected NAME.safetensors in the same folder").c_str());
  }

  const char* what_;
  const std::string& path_;
  int depth_ = 0;
  bool in_map_ = false;
  std::size_t name_bytes_ = 0;
};

Result<ShardList> read_index(const char* what, const std::string& folder, const std::string& path) {
  FATHOM_ASSIGN(const RegularFile file, RegularFile::open(what, path));
  if (file.size() > kMostIndexBytes) {
    return Status::invalid("%s: %s has %lld bytes, expected at most %lld", what, path.c_str(),
                           static_cast<long long>(file.size()), static_cast<long long>(kMostIndexBytes));
  }
  std::int64_t at = 0;
  const JsonSource source = [&](char* buffer, std::size_t bytes) -> Result<std::size_t> {
    const std::int64_t count = std::min<std::int64_t>(static_cast<std::int64_t>(bytes), file.size() - at);
    FATHOM_TRY(file.read_at(at, buffer, count));
    at += count;
    return static_cast<std::size_t>(count);
  };
  IndexReceiver receiver(what, path);
  FATHOM_TRY(read_json(std::string(what) + ": " + path, source, JsonLimits{}, receiver));
  if (receiver.named.empty()) return Status::invalid("%s: %s has no weight_map with tensors", what, path.c_str());
  ShardList list;
  list.index_path = path;
  list.paths.resize(receiver.files.size());
  for (const auto& [name, number] : receiver.files) list.paths[number] = folder + "/" + name;
  list.named = std::move(receiver.named);
  std::sort(list.named.begin(), list.named.end());
  for (std::size_t i = 1; i < list.named.size(); ++i) {
    if (list.named[i].first == list.named[i - 1].first) {
      return Status::invalid("%s: %s names the tensor %s twice", what, path.c_str(),
                             in_quotes(list.named[i].first).c_str());
    }
  }
  return list;
}

/// True if something of that name exists, whatever it is.
bool exists(const std::string& path) {
  struct stat status;
  return ::lstat(path.c_str(), &status) == 0;
}

}  // namespace

Result<ShardList> find_shards(const char* what, const std::string& path) {
  struct stat status;
  ShardList list;
  if (::stat(path.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) {
    list.paths = {path};  // opening it says what is wrong
    return list;
  }
  const std::string index = path + "/model.safetensors.index.json";
  if (exists(index)) return read_index(what, path, index);
  const std::string single = path + "/model.safetensors";
  if (exists(single)) {
    list.paths = {single};
    return list;
  }
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir(path.c_str()), ::closedir);
  if (folder == nullptr) {
    return Status::invalid("%s: cannot list %s: %s", what, path.c_str(),
                           std::generic_category().message(errno).c_str());
  }
  while (const dirent* entry = ::readdir(folder.get())) {
    const std::string name = entry->d_name;
    if (name.starts_with('.') || !name.ends_with(".safetensors")) continue;
    if (list.paths.size() == kMostFiles) {
      return Status::invalid("%s: %s holds more than %zu *.safetensors files", what, path.c_str(), kMostFiles);
    }
    list.paths.push_back(path + "/" + name);
  }
  if (list.paths.empty()) return Status::invalid("%s: %s holds no *.safetensors file", what, path.c_str());
  std::sort(list.paths.begin(), list.paths.end());
  return list;
}

}  // namespace fathom
