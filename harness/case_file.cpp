// Reading case files. Errors name the path, so that a missing file is not taken for an op without cases.
#include "harness/case_file.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace fathom::harness {

std::vector<std::string> case_lines(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const std::size_t stop = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, stop);
    text.remove_prefix(std::min(stop + 1, text.size()));
    line = line.substr(0, std::min(line.find('#'), line.size()));
    const std::size_t first = line.find_first_not_of(" \t\r");
    if (first == std::string_view::npos) continue;
    lines.emplace_back(line.substr(first, line.find_last_not_of(" \t\r") - first + 1));
  }
  return lines;
}

Result<std::vector<std::string>> read_cases(const std::string& folder, std::string_view op, std::string_view set) {
  const std::string path = folder + "/" + std::string(op) + "/" + std::string(set) + ".txt";
  std::ifstream file(path);
  if (!file) return Status::invalid("cases: cannot read %s", path.c_str());
  std::ostringstream text;
  text << file.rdbuf();
  std::vector<std::string> lines = case_lines(text.str());
  if (lines.empty()) return Status::invalid("cases: %s holds no case", path.c_str());
  return lines;
}

std::string cases_folder_of(const std::string& executable) {
  const auto folder = std::filesystem::path(executable).parent_path() / FATHOM_CASES_FROM_BIN;
  std::error_code ignored;
  return std::filesystem::is_directory(folder, ignored) ? folder.lexically_normal().string() : FATHOM_CASES_DIR;
}

std::string default_cases_folder() {
  std::error_code ignored;  // without /proc the path is empty
  return cases_folder_of(std::filesystem::read_symlink("/proc/self/exe", ignored).string());
}

}  // namespace fathom::harness
