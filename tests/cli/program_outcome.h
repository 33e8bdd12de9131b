// Runs the program inside the test: arguments in, exit code and both streams out.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "cli/commands.h"

namespace fathom::cli {

struct Outcome {
  int code = -1;
  std::string out, err;
};

inline Outcome run_fathom(const std::vector<std::string>& arguments) {
  std::vector<const char*> argv{"fathom"};
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  Outcome outcome;
  outcome.code = run_program(static_cast<int>(argv.size()), argv.data());
  outcome.out = testing::internal::GetCapturedStdout();
  outcome.err = testing::internal::GetCapturedStderr();
  return outcome;
}

/// An error is one sentence on one line: "fathom: ...\n".
inline bool is_one_sentence(const std::string& text) {
  return text.starts_with("fathom: ") && text.size() > 9 && text.find('\n') == text.size() - 1;
}

/// A fresh folder that goes away with the object.
class TempFolder {
 public:
  TempFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "fathom_XXXXXX").string();
    path_ = mkdtemp(name.data()) != nullptr ? name : std::string();
    EXPECT_FALSE(path_.empty()) << "no temporary folder";
  }
  ~TempFolder() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace fathom::cli
