// Files of unknown origin, read with pread: a file that is cut short while we read is an error status, where a mapping
// would end the process with SIGBUS.
#pragma once

#include <cstdint>
#include <string>

#include "fathom/core/status.h"

namespace fathom {

class RegularFile {
 public:
  /// Opens `path` for reading. Folders, FIFOs, sockets and devices are refused without blocking, also behind a symbolic
  /// link. Statuses start with "`what`: "; it must outlive the file.
  static Result<RegularFile> open(const char* what, const std::string& path);
  RegularFile(RegularFile&& other) noexcept;
  RegularFile& operator=(RegularFile&& other) noexcept;
  ~RegularFile();

  const char* what() const noexcept { return what_; }
  const std::string& path() const noexcept { return path_; }
  /// Bytes at the time of opening.
  std::int64_t size() const noexcept { return size_; }
  /// Reads exactly `bytes` bytes from `offset` on.
  Status read_at(std::int64_t offset, void* out, std::int64_t bytes) const noexcept;

 private:
  RegularFile(const char* what, std::string path, int descriptor, std::int64_t size) noexcept
      : what_(what), path_(std::move(path)), descriptor_(descriptor), size_(size) {}

  const char* what_;
  std::string path_;
  int descriptor_ = -1;
  std::int64_t size_ = 0;
};

}  // namespace fathom
