// Opening without blocking, reading without mapping.
#include "config/regular_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

namespace fathom {
namespace {

const char* kind_of(mode_t mode) noexcept {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
  return "something else";
}

}  // namespace

Result<RegularFile> RegularFile::open(const char* what, const std::string& path) {
  if (path.find('\0') != std::string::npos) return Status::invalid("%s: the path holds a zero byte", what);
  // O_NONBLOCK: opening a FIFO that nobody writes to would wait forever.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
  if (descriptor < 0) {
    return Status::invalid("%s: cannot open %s: %s", what, path.c_str(),
                           std::generic_category().message(errno).c_str());
  }
  RegularFile file(what, path, descriptor, 0);
  struct stat status;
  if (::fstat(descriptor, &status) != 0) {
    return Status::device_error("%s: cannot examine %s: %s", what, path.c_str(),
                                std::generic_category().message(errno).c_str());
  }
  if (!S_ISREG(status.st_mode)) {
    return Status::invalid("%s: %s is %s, expected a regular file", what, path.c_str(), kind_of(status.st_mode));
  }
  file.size_ = status.st_size;
  return file;
}

RegularFile::RegularFile(RegularFile&& other) noexcept
    : what_(other.what_),
      path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      size_(other.size_) {}

RegularFile& RegularFile::operator=(RegularFile&& other) noexcept {
  std::swap(what_, other.what_);
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(size_, other.size_);
  return *this;
}

RegularFile::~RegularFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Status RegularFile::read_at(std::int64_t offset, void* out, std::int64_t bytes) const noexcept {
  auto* to = static_cast<char*>(out);
  while (bytes > 0) {
    constexpr std::int64_t kMostPerCall = std::int64_t{1} << 30;
    const ssize_t count = ::pread(descriptor_, to, static_cast<std::size_t>(std::min(bytes, kMostPerCall)), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Status::device_error("%s: reading %s failed with error %d", what_, path_.c_str(), errno);
    if (count == 0) {
      return Status::device_error("%s: %s ends at byte %lld, it was cut while being read", what_, path_.c_str(),
                                  static_cast<long long>(offset));
    }
    to += count, offset += count, bytes -= count;
  }
  return {};
}

}  // namespace fathom
