// Case files: cases/<op>/{smoke,ci,model}.txt, one case a line, '#' comments.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "fathom/core/status.h"

namespace fathom::harness {

/// The cases of a file's text: blank lines and comments left out, blanks at both ends cut.
std::vector<std::string> case_lines(std::string_view text);
/// The cases of `folder`/`op`/`set`.txt.
Result<std::vector<std::string>> read_cases(const std::string& folder, std::string_view op, std::string_view set);
/// The cases that are installed beside `executable`, else those of the source tree this was built from.
std::string cases_folder_of(const std::string& executable);
/// The same of the running program.
std::string default_cases_folder();

}  // namespace fathom::harness
