// `fathom info`: the machine, the ops, an op's contract, which implementation takes a problem, the cache formats.
#include <CLI/CLI.hpp>

#include <fmt/core.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include <cstddef>
#include <memory>
#include <span>

#include "cli/cache_map.h"
#include "cli/commands.h"
#include "cli/machine.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "fathom/c/fathom.h"
#include "fathom/fathom.h"

namespace fathom::cli {
namespace {

using Json = nlohmann::ordered_json;

struct InfoOptions {
  std::string subject;  ///< an op, "cache", or nothing: the machine
  std::optional<std::string> problem;  ///< "" is a problem too: all defaults
  DeviceChoice device;
  bool json = false;
};

void print_json(const Json& json) { fmt::print("{}\n", json.dump(2)); }

// ---- the machine and the ops ----------------------------------------------------------------------------------------

double gib_of(std::int64_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0 * 1024.0); }

std::string gpu_text(const Gpu& gpu) {
  if (!gpu.complaint.empty()) return fmt::format("{}, not usable ({})", gpu.name, gpu.complaint);
  return fmt::format("{}, compute capability {}, {} multiprocessors, {:.1f} GiB, {} KiB of shared memory a block",
                     gpu.name, capability_text(gpu.limits), gpu.limits.num_multiprocessors,
                     gib_of(gpu.limits.memory_bytes), gpu.limits.shared_bytes_per_block / 1024);
}

Json gpu_json(const Gpu& gpu) {
  if (!gpu.complaint.empty()) return {{"device", gpu.name}, {"complaint", gpu.complaint}};
  return {{"device", gpu.name},
          {"compute_capability", capability_text(gpu.limits)},
          {"multiprocessors", gpu.limits.num_multiprocessors},
          {"memory_bytes", gpu.limits.memory_bytes},
          {"l2_bytes", gpu.limits.l2_bytes},
          {"shared_bytes_per_block", gpu.limits.shared_bytes_per_block}};
}

void print_machine(bool as_json) {
  const Machine machine = this_machine();
  if (as_json) {
    Json json = {{"version", machine.version},   {"compiler", machine.compiler}, {"processor", machine.processor},
                 {"features", machine.features}, {"threads", machine.threads},   {"memory_bytes", machine.memory_bytes},
                 {"cuda_targets", machine.cuda_targets}, {"gpus", Json::array()},         {"ops", Json::array()}};
    for (const Gpu& gpu : machine.gpus) json["gpus"].push_back(gpu_json(gpu));
    if (machine.gpus.empty()) json["no_gpu"] = machine.no_gpu;
    for (const OpSpec* op : op_table()) json["ops"].push_back(op->name);
    print_json(json);
    return;
  }
  fmt::print("fathom     {}, built with {}\n", machine.version, machine.compiler);
  fmt::print("processor  {}\n", machine.processor);
  fmt::print("features   {}\n",
             machine.features.empty() ? "unknown" : fmt::format("{}", fmt::join(machine.features, " ")));
  fmt::print("threads    {}\n", machine.threads);
  fmt::print("memory     {:.1f} GiB\n", gib_of(machine.memory_bytes));
  fmt::print("cuda       {}\n", machine.cuda_targets.empty()
                                    ? "this build has no CUDA kernels"
                                    : fmt::format("kernels for {}", fmt::join(machine.cuda_targets, " ")));
  fmt::print("devices    cpu\n");
  for (const Gpu& gpu : machine.gpus) fmt::print("           {}\n", gpu_text(gpu));
  if (machine.gpus.empty()) fmt::print("           no GPU ({})\n", machine.no_gpu);
  fmt::print("\n");
  Table ops({"op", "stage", "summary"});
  for (const OpSpec* op : op_table()) ops.add({op->name, op->stage, op->summary});
  fmt::print("{}\n`fathom info OP` shows an op's contract, `fathom info cache` the row formats.\n", ops.text());
}

// ---- one op ---------------------------------------------------------------------------------------------------------

Status print_op_json(const OpSpec& op) {
  std::int64_t size = 0;
  fathom_status status;
  if (fathom_op_json(op.name, nullptr, 0, &size, &status) != FATHOM_OK) return Status::device_error("%s", status.text);
  std::string text(static_cast<std::size_t>(size), '\0');
  if (fathom_op_json(op.name, text.data(), size, &size, &status) != FATHOM_OK) {
    return Status::device_error("%s", status.text);
  }
  print_json(Json::parse(text.c_str()));
  return {};
}

std::string bounds_text(const ProblemField& field) {
  const auto words = field_words(field);
  if (!words.empty()) return fmt::format("{}", fmt::join(words, " | "));
  if (field.kind == FieldKind::real && field.most == field.least) return "a finite number";
  return fmt::format("{} to {}{}", field.least, field.most,
                     field.kind == FieldKind::capacity ? ", a run may bring fewer" : "");
}

/// "num_tokens topk" -> "[num_tokens, topk]".
std::string bracketed(std::string_view shape) {
  std::string text = "[";
  for (const char c : shape) text += c == ' ' ? std::string(", ") : std::string(1, c);
  return text + "]";
}

void print_op(const OpSpec& op) {
  fmt::print("{}: {}\n\n{}\n\nsource: {}\n\n", op.name, op.summary, op.formula, op.source);
  Table args({"argument", "role", "shape", "dtype", "meaning"});
  for (const ArgSpec& arg : op.args) {
    args.add({arg.name, name_of(arg.role), bracketed(arg.shape), arg.dtypes, arg.doc});
  }
  Table fields({"problem field", "default", "may be", "meaning"});
  for (const ProblemField& field : op.problem->fields) {
    fields.add({field.name, field_text(field, op.problem->defaults), bounds_text(field), field.doc});
  }
  fmt::print("{}\n{}", args.text(), fields.text());
  for (const FieldGroup& group : field_groups(*op.problem)) {
    fmt::print("\n{}=... sets {}, except where the text names one of them too.\n", group.name, group.fields);
  }
}

/// Which implementation takes the problem, and why the others do not.
Status print_candidates(const OpSpec& op, const std::string& text, const DeviceChoice& choice, bool as_json) {
  std::vector<std::max_align_t> problem(op.problem->size / sizeof(std::max_align_t) + 1);
  FATHOM_TRY(parse_problem(*op.problem, text, problem.data()));
  FATHOM_TRY(check_problem(*op.problem, op.name, problem.data()));
  FATHOM_ASSIGN(const Device device, choice.open());
  FATHOM_ASSIGN(const std::vector<Candidate> list, candidates(op, problem.data(), device));
  const std::string shown = problem_text(*op.problem, problem.data());
  if (as_json) {
    Json json = {{"op", op.name}, {"problem", shown}, {"device", name_of(device)}, {"candidates", Json::array()}};
    for (const Candidate& candidate : list) {
      json["candidates"].push_back({{"implementation", candidate.implementation}, {"reason", candidate.reason}});
    }
    print_json(json);
    return {};
  }
  fmt::print("{} \"{}\"\n", op.name, shown);
  Table table({"implementation", "answer"});
  bool taken = false;
  for (const Candidate& candidate : list) {
    const bool takes = candidate.reason.empty();
    table.add({candidate.implementation, !takes ? "refuses: " + candidate.reason : taken ? "could" : "takes it"});
    taken = taken || takes;
  }
  fmt::print("{}", table.text());
  return {};
}

// ---- cache formats --------------------------------------------------------------------------------------------------

Json layout_json(const RowLayout& layout) {
  Json json = {{"format", name_of(layout.format)},        {"dim", layout.dim},
               {"row_bytes", layout.row_bytes},           {"footer_bytes", layout.footer_bytes},
               {"page_alignment", layout.page_alignment}, {"segments", Json::array()}};
  for (const RowSegment& segment : std::span(layout.segments, static_cast<std::size_t>(layout.num_segments))) {
    json["segments"].push_back({{"name", segment.name},
                                {"dtype", name_of(segment.dtype)},
                                {"first", segment.first},
                                {"count", segment.count},
                                {"offset", segment.offset},
                                {"in_footer", segment.in_footer},
                                {"scale_block", segment.scale_block}});
  }
  return json;
}

void print_layout(const RowLayout& layout) {
  fmt::print("{}: {} elements, {} bytes a row", name_of(layout.format), layout.dim,
             layout.row_bytes + layout.footer_bytes);
  if (layout.footer_bytes > 0)
    fmt::print(" ({} in the row, {} in the page's footer)", layout.row_bytes, layout.footer_bytes);
  if (layout.page_alignment > 1) fmt::print(", pages rounded up to {}", layout.page_alignment);
  fmt::print("\n");
  Table table({"  segment", "dtype", ">elements", ">offset", ">bytes", "place", "scale"});
  for (const RowSegment& segment : std::span(layout.segments, static_cast<std::size_t>(layout.num_segments))) {
    table.add({fmt::format("  {}", segment.name), name_of(segment.dtype), std::to_string(segment.count),
               std::to_string(segment.offset), std::to_string(bytes_of(segment.dtype, segment.count)),
               segment.in_footer ? "footer" : "row",
               segment.scale_block > 0 ? fmt::format("one for each {}", segment.scale_block) : ""});
  }
  fmt::print("{}\n", table.text());
}

Status print_formats(bool as_json) {
  Json all = Json::array();
  for (std::size_t i = 0; i < std::size(kCacheFormatWords); ++i) {
    const auto format = static_cast<CacheFormat>(i);
    FATHOM_ASSIGN(const RowLayout layout, row_layout(format, model_dim(format)));
    if (as_json) {
      all.push_back(layout_json(layout));
    } else {
      print_layout(layout);
    }
  }
  if (as_json) print_json(all);
  return {};
}

Status info(const InfoOptions& options) {
  if (options.subject.empty()) {
    print_machine(options.json);
    return {};
  }
  if (options.subject == "cache") return print_formats(options.json);
  const OpSpec* op = find_op(options.subject);
  if (options.problem) return print_candidates(*op, *options.problem, options.device, options.json);
  if (options.json) return print_op_json(*op);
  print_op(*op);
  return {};
}

}  // namespace

void add_info(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<InfoOptions>();
  CLI::App* verb = app.add_subcommand("info", "Show the machine, an op's contract, or who takes a problem");
  verb->add_option("op", options->subject, "An op, or \"cache\" for the row formats; nothing: the machine and all ops")
      ->check(op_name({"cache"}));
  auto* problem = verb->add_option_function<std::string>(
      "problem", [options](const std::string& text) { options->problem = text; },
      "Problem text: which implementation takes it, and why the others refuse");
  add_device_name(*verb, options->device)->needs(problem);
  verb->add_flag("--json", options->json, "Print JSON");
  verb->callback([options, &exit_code] {
    const Status status = info(*options);
    exit_code = status.ok() ? kOk : fail(status);
  });
}

}  // namespace fathom::cli
