// Timing on a GPU. Every call of a graph finds its inputs outside the L2: the graph goes round copies that together pass
// it several times over.
#include <algorithm>
#include <chrono>

#include "harness/device_case.h"
#include "harness/measure.h"
#include "harness/plan_workspace.h"

namespace fathom::harness {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kColdBytes = std::int64_t{256} << 20;
constexpr std::int64_t kFewestCopies = 4, kMostCopies = 512;
constexpr int kFewestCalls = 20, kFewestReplays = 15;
constexpr double kLongCall = 0.01;  ///< seconds; beside such a call a launch is nothing, so a graph needs few of them
constexpr double kWarmUpSeconds = 0.2;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

int copies_for(std::int64_t bytes, const Device& device) {
  const std::int64_t each = std::max<std::int64_t>(bytes, 1);
  const std::int64_t room = std::max<std::int64_t>(device.limits().memory_bytes / 2 / each, 1);
  return static_cast<int>(std::min(std::clamp(kColdBytes / each + 1, kFewestCopies, kMostCopies), room));
}

int calls_for(int copies, double seconds_of_one) {
  if (seconds_of_one > kLongCall) return copies;
  return (kFewestCalls + copies - 1) / copies * copies;
}

}  // namespace

Result<Measurement> measure(std::string_view op, std::string_view text, const Device& device, GpuRoof& roof,
                            const MeasureOptions& options) {
  FATHOM_ASSIGN(const OpCase built, make_case(op, text));
  FATHOM_ASSIGN(const AnyPlan plan, plan_problem(*built.op, built.problem.data(), device, {options.implementation}));
  Measurement result;
  result.op = op;
  result.text = text;
  result.implementation = plan.implementation();
  result.roof_arithmetic = GpuRoof::kArithmetic;
  FATHOM_ASSIGN(result.cost, cost_of(built));
  if (const WatchedRun run = run_case(built, plan, kPoisons[0]); !run.ok()) {
    return Status::device_error("bench: %s", run.problem_text().c_str());
  }

  std::vector<DeviceCase> copies;
  FATHOM_ASSIGN(DeviceCase first, DeviceCase::create(built, device));
  result.copies = copies_for(first.bytes(), device);
  copies.push_back(std::move(first));
  while (static_cast<int>(copies.size()) < result.copies) {
    FATHOM_ASSIGN(DeviceCase next, copies.front().copy());
    copies.push_back(std::move(next));
  }
  FATHOM_ASSIGN(const PlanWorkspace workspace, PlanWorkspace::create(plan));

  double seconds_of_one = 0;
  for (int i = 0; i < 2; ++i) {  // the first one loads the kernels
    const auto start = Clock::now();
    FATHOM_TRY(run_op(plan, copies[i % copies.size()].views(), workspace.get()));
    FATHOM_TRY(synchronize(device));
    seconds_of_one = seconds_since(start);
  }
  const int calls = calls_for(result.copies, seconds_of_one);
  FATHOM_ASSIGN(const GpuGraph graph, GpuGraph::capture(device, [&](Stream stream, const auto&) -> Status {
    for (int i = 0; i < calls; ++i) FATHOM_TRY(run_op(plan, copies[i % copies.size()].views(), workspace.get(), stream));
    return {};
  }));
  const auto start = Clock::now();
  do {
    FATHOM_TRY(graph.replay().status());
  } while (seconds_since(start) < kWarmUpSeconds);

  std::vector<double> seconds, bytes_per_second, operations_per_second;
  const int replays = std::max(options.alternations, kFewestReplays);
  for (int turn = 0; turn < replays; ++turn) {
    FATHOM_ASSIGN(const double bytes, roof.read_bytes_per_second());
    FATHOM_ASSIGN(const double operations, roof.operations_per_second());
    FATHOM_ASSIGN(const double replay, graph.replay());
    bytes_per_second.push_back(bytes);
    operations_per_second.push_back(operations);
    seconds.push_back(replay / calls);
  }
  result.runs = replays * calls;
  result.clock_hz = roof.clock_hz();
  result.seconds = spread_of(std::move(seconds));
  result.roof_bytes_per_second = spread_of(std::move(bytes_per_second));
  result.roof_operations_per_second = spread_of(std::move(operations_per_second));
  return result;
}

}  // namespace fathom::harness
