// Which files a checkpoint is made of.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "fathom/core/status.h"

namespace fathom {

inline constexpr std::size_t kMostFiles = 512;

struct ShardList {
  std::vector<std::string> paths;
  /// With an index: every tensor's name and the place of its file in `paths`, by name. Without: empty.
  std::vector<std::pair<std::string, std::uint16_t>> named;
  std::string index_path;  ///< empty without an index
};

/// A file is itself. A folder is what its model.safetensors.index.json says, else its model.safetensors, else every
/// *.safetensors in it. Statuses start with "`what`: ".
Result<ShardList> find_shards(const char* what, const std::string& path);

}  // namespace fathom
