// Roof and op take turns in one process, so that what disturbs the machine disturbs both; medians are reported.
#include "harness/measure.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "harness/run.h"

namespace fathom::harness {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// A copy of the case with its own outputs, ready to run again and again.
struct Copy {
  OpCase built;
  WatchedRun run;
};

/// Copies whose inputs together pass twice the last-level cache; one where the case alone does.
int copies_for(std::int64_t input_bytes) {
  constexpr std::int64_t kMostCopies = 64;
  const std::int64_t wanted = (2 * cache_bytes() + input_bytes) / std::max<std::int64_t>(input_bytes, 1);
  return static_cast<int>(std::clamp<std::int64_t>(wanted, 1, kMostCopies));
}

double roof_seconds_of_bytes(const Measurement& m) { return m.cost.bytes() / m.roof_bytes_per_second.median; }
double roof_seconds_of_operations(const Measurement& m) {
  return m.cost.operations / m.roof_operations_per_second.median;
}

}  // namespace

Spread spread_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    return values[static_cast<std::size_t>(std::lround(share * static_cast<double>(values.size() - 1)))];
  };
  const std::size_t half = values.size() / 2;
  const double median = values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
  return {median, at(0.1), at(0.9)};
}

double Measurement::share_of_roof() const noexcept {
  return std::max(roof_seconds_of_bytes(*this), roof_seconds_of_operations(*this)) / seconds.median;
}
bool Measurement::is_bound_by_memory() const noexcept {
  return roof_seconds_of_bytes(*this) >= roof_seconds_of_operations(*this);
}

Result<Measurement> measure(std::string_view op, std::string_view text, const Device& device, RoofMeter& roof,
                            const MeasureOptions& options) {
  FATHOM_ASSIGN(OpCase first, make_case(op, text));
  FATHOM_ASSIGN(const AnyPlan plan, plan_problem(*first.op, first.problem.data(), device, {options.implementation}));
  Measurement result;
  result.op = op;
  result.text = text;
  result.implementation = plan.implementation();
  FATHOM_ASSIGN(result.cost, cost_of(first));
  const Arithmetic arithmetic = arithmetic_of(plan);
  result.roof_arithmetic = words_of(arithmetic);

  std::vector<Copy> copies;
  result.copies = copies_for(first.input_bytes());
  for (int i = 0; i < result.copies; ++i) {
    if (i > 0) {
      FATHOM_ASSIGN(first, make_case(op, text));
    }
    WatchedRun run = run_case(first, plan, kPoisons[0]);
    if (!run.ok()) return Status::device_error("bench: %s", run.problem_text().c_str());
    copies.push_back({std::move(first), std::move(run)});
  }
  const WorkspaceSize size = plan.workspace_size();
  const GuardedBlock memory(size.total());
  const Workspace workspace = carve_workspace(memory.data(), size);
  FATHOM_TRY(init_workspace(plan, workspace));

  std::size_t next = 0;
  const auto run_once = [&] { return run_op(plan, copies[next++ % copies.size()].run.views, workspace); };
  // The runs above were the warm-up; the fastest of three more tells how many fill a sample.
  double seconds_of_one = HUGE_VAL;
  for (int i = 0; i < 3; ++i) {
    const auto start = Clock::now();
    FATHOM_TRY(run_once());
    seconds_of_one = std::min(seconds_of_one, std::max(seconds_since(start), 1e-7));
  }
  const int runs = std::max(1, static_cast<int>(std::min(options.seconds_per_sample / seconds_of_one, 100000.0)));

  std::vector<double> seconds, bytes_per_second, operations_per_second;
  const int alternations = std::max(options.alternations, 5);
  for (int turn = 0; turn < alternations; ++turn) {
    bytes_per_second.push_back(roof.read_bytes_per_second());
    operations_per_second.push_back(roof.operations_per_second(arithmetic));
    const auto begin = Clock::now();
    for (int i = 0; i < runs; ++i) FATHOM_TRY(run_once());
    seconds.push_back(seconds_since(begin) / runs);
  }
  result.runs = alternations * runs;
  result.seconds = spread_of(std::move(seconds));
  result.roof_bytes_per_second = spread_of(std::move(bytes_per_second));
  result.roof_operations_per_second = spread_of(std::move(operations_per_second));
  return result;
}

}  // namespace fathom::harness
