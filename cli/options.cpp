// The shared options. Checks run while the command line is parsed, so no verb can forget one.
#include "cli/options.h"

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/terminal.h"

namespace fathom::cli {
namespace {

constexpr const char* kForce = "--force";

void force(harness::Forced& forced, const std::string& word) {
  const std::size_t equals = word.find('=');
  const std::string op = word.substr(0, equals);
  if (equals == std::string::npos || equals + 1 == word.size()) {
    throw CLI::ValidationError(kForce, fmt::format("\"{}\" is not OP=IMPL", word));
  }
  if (find_op(op) == nullptr) throw CLI::ValidationError(kForce, fmt::format("there is no op \"{}\"", op));
  if (!forced.emplace(op, word.substr(equals + 1)).second) {
    throw CLI::ValidationError(kForce, fmt::format("{} is named twice", op));
  }
}

}  // namespace

void need_subcommand(CLI::App& app, int& exit_code) {
  // CLI11 would complain of the missing subcommand before it names the word that is none.
  app.require_subcommand(0, 1);
  app.callback([&app, &exit_code] {
    if (!app.get_subcommands().empty()) return;
    std::vector<std::string> names;
    for (const CLI::App* known : app.get_subcommands({})) names.push_back(known->get_name());
    const std::string who = app.get_parent() == nullptr ? "" : app.get_name() + ": ";
    print_error(fmt::format("{}expected one of {}", who, fmt::join(names, ", ")));
    exit_code = kUsage;
  });
}

void add_force(CLI::App& verb, harness::Forced& forced, const std::string& meaning) {
  const auto read = [&forced](const std::vector<std::string>& words) {
    for (const std::string& word : words) force(forced, word);
  };
  verb.add_option_function<std::vector<std::string>>(kForce, read, "OP=IMPL: " + meaning)
      ->expected(1)
      ->allow_extra_args(false)  // the word after the pair may be a case
      ->take_all();
}

CLI::Option* add_device_name(CLI::App& verb, DeviceChoice& device) {
  const CLI::Validator is_name(
      [](const std::string& word) {
        return is_device_name(word) ? std::string() : fmt::format("\"{}\" is not cpu, cuda or cuda:N", word);
      },
      "");
  return verb.add_option("--device", device.name, "Where to run: cpu, cuda (the first GPU) or cuda:N")
      ->check(is_name)
      ->capture_default_str();
}

void add_device(CLI::App& verb, DeviceChoice& device) {
  constexpr int kMostThreads = 4096;
  add_device_name(verb, device);
  const CLI::Option* threads = verb.add_option("--threads", device.threads, "Threads of the CPU; 0 takes all")
                                   ->check(CLI::Range(0, kMostThreads));
  verb.parse_complete_callback([threads, &device] {
    if (device.is_cuda() && threads->count() > 0) {
      throw CLI::ValidationError("--threads", fmt::format("only the CPU has threads, the device is {}", device.name));
    }
  });
}

CLI::Option* add_split(CLI::App& verb, Split& split) {
  const auto read = [&split](const std::string& word) {
    split = word == kSplitWords[static_cast<int>(Split::fixed)] ? Split::fixed : Split::balanced;
  };
  return verb
      .add_option_function<std::string>(
          "--split", read, "Where attend cuts rows on a GPU: balanced fills it; fixed gives the same bits in any batch")
      ->check(CLI::IsMember(std::vector<std::string>(std::begin(kSplitWords), std::end(kSplitWords))));
}

CLI::Validator op_name(const std::vector<std::string>& others) {
  std::vector<std::string> names;
  for (const OpSpec* op : op_table()) names.emplace_back(op->name);
  names.insert(names.end(), others.begin(), others.end());
  return CLI::IsMember(names);
}

CLI::Validator not_empty() {
  return {[](const std::string& word) { return word.empty() ? "is empty" : ""; }, ""};
}

}  // namespace fathom::cli
