// What the options of several verbs share: subcommands, --force, names of ops and files, the device. A word that passes
// here is sound; one that does not is an error of the command line.
#pragma once

#include <CLI/CLI.hpp>

#include <string>

#include "cli/device_choice.h"
#include "fathom/attend.h"
#include "harness/conformance.h"

namespace fathom::cli {

/// Makes `app` ask for one of its subcommands; a command line without one stores kUsage.
void need_subcommand(CLI::App& app, int& exit_code);

/// --force OP=IMPL, repeatable, read into `forced`: known ops, each named once.
void add_force(CLI::App& verb, harness::Forced& forced, const std::string& meaning);
/// --device cpu, cuda or cuda:N; and --threads, which only the CPU has, 0 to as many as Device::cpu takes.
void add_device(CLI::App& verb, DeviceChoice& device);
/// --device alone, for verbs that ask and do not run.
CLI::Option* add_device_name(CLI::App& verb, DeviceChoice& device);

/// --split balanced or fixed.
CLI::Option* add_split(CLI::App& verb, Split& split);

/// An op's name, or one of `others`.
CLI::Validator op_name(const std::vector<std::string>& others = {});
/// A path or a name: an empty one would be taken for an option that was not given.
CLI::Validator not_empty();

}  // namespace fathom::cli
