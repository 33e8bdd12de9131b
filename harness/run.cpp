// Outputs, caches and workspace are made afresh for every run; what a run must not touch is compared after it.
#include "harness/run.h"

#include <algorithm>
#include <cstring>

#include "fathom/core/memory.h"

namespace fathom::harness {
namespace {

/// True if every byte between the rows of an output is still poison.
bool gaps_are_whole(const TensorView& view, const GuardedBlock& block, std::byte poison) {
  const std::byte* after = block.data();
  bool whole = true;
  for_each_row(view, [&](const std::byte* row, std::int64_t count) {
    whole = whole && std::all_of(after, row, [&](std::byte byte) { return byte == poison; });
    after = row + bytes_of(view.dtype, count);
  });
  return whole;
}

std::string canary_fault(const GuardedBlock& block, const std::string& what) {
  const char* side = block.broken_side();
  return side == nullptr ? std::string() : "wrote " + std::string(side) + " " + what;
}

/// The blocks of a run where the plan's device sees them: themselves on the CPU, else copies with canaries of their own,
/// which are copied back before anything is checked.
class Mirror {
 public:
  explicit Mirror(const Device& device) : device_(device) {}

  /// Where the block's bytes lie for the device.
  Result<std::byte*> place(const GuardedBlock& block) {
    if (device_.kind() == DeviceKind::cpu || block.data() == nullptr) return block.data();
    FATHOM_ASSIGN(DeviceMemory memory, DeviceMemory::allocate(device_, static_cast<std::int64_t>(block.whole().size())));
    FATHOM_TRY(copy_bytes(device_, memory.data(), block.whole().data(), memory.bytes()));
    copies_.push_back({&block, std::move(memory)});
    return copies_.back().memory.data() + GuardedBlock::kCanaryBytes;
  }
  Status copy_back() {
    FATHOM_TRY(synchronize(device_));
    for (const Copy& copy : copies_) FATHOM_TRY(copy_bytes(device_, copy.block->whole().data(), copy.memory.data(), copy.memory.bytes()));
    return synchronize(device_);
  }

 private:
  struct Copy {
    const GuardedBlock* block;
    DeviceMemory memory;
  };
  Device device_;
  std::vector<Copy> copies_;
};

/// Runs the plan on what `mirror` makes of the run's blocks and the case's inputs.
Status run_mirrored(const OpCase& built, const AnyPlan& plan, const WatchedRun& run, const GuardedBlock& scratch,
                    const GuardedBlock& counters, const GuardedBlock& schedule) {
  Mirror mirror(plan.device());
  std::vector<TensorView> views = run.views;
  for (std::size_t i = 0; i < views.size(); ++i) {
    if (views[i].is_absent()) continue;
    const GuardedBlock& block = is_written(built.op->args[i].role) ? run.blocks[i] : built.args[i].block;
    const auto offset = static_cast<std::byte*>(views[i].data) - block.data();
    FATHOM_ASSIGN(std::byte* const at, mirror.place(block));
    views[i].data = at == nullptr ? nullptr : at + offset;
    views[i].device = plan.device().kind();
    views[i].device_index = static_cast<std::int16_t>(plan.device().index());
  }
  Workspace workspace{{nullptr, scratch.size()}, {nullptr, counters.size()}, {nullptr, schedule.size()}};
  FATHOM_ASSIGN(workspace.scratch.data, mirror.place(scratch));
  FATHOM_ASSIGN(workspace.counters.data, mirror.place(counters));
  FATHOM_ASSIGN(workspace.schedule.data, mirror.place(schedule));
  FATHOM_TRY(init_workspace(plan, workspace));
  const Status status = run_op(plan, views, workspace);
  FATHOM_TRY(mirror.copy_back());
  return status;
}

}  // namespace

WatchedRun run_case(const OpCase& built, const AnyPlan& plan, std::byte poison, bool all_outputs) {
  WatchedRun run;
  const std::size_t count = built.args.size();
  run.views.resize(count);
  run.blocks.resize(count);
  for (std::size_t i = 0; i < count; ++i) {
    const Argument& argument = built.args[i];
    const Role role = built.op->args[i].role;
    if (argument.presence == Presence::absent || (argument.presence == Presence::reference_only && !all_outputs))
      continue;
    run.views[i] = argument.view;
    if (!is_written(role)) continue;
    if (is_inout(role)) {
      run.blocks[i] = GuardedBlock(argument.block.size());
      std::memcpy(run.blocks[i].data(), argument.block.data(), static_cast<std::size_t>(argument.block.size()));
    } else {
      run.blocks[i] = GuardedBlock(span_bytes(argument.view), poison);
    }
    run.views[i].data = run.blocks[i].data();
  }

  const WorkspaceSize size = plan.workspace_size();
  const GuardedBlock scratch(size.scratch, poison), counters(size.counters, poison), schedule(size.schedule, poison);
  run.status = run_mirrored(built, plan, run, scratch, counters, schedule);

  const auto fault = [&](std::string text) {
    if (run.fault.empty()) run.fault = std::move(text);
  };
  fault(canary_fault(scratch, "the scratch workspace"));
  fault(canary_fault(counters, "the counters"));
  fault(canary_fault(schedule, "the schedule"));
  const auto counter_bytes = counters.bytes();
  if (run.status.ok() &&
      std::any_of(counter_bytes.begin(), counter_bytes.end(), [](std::byte byte) { return byte != std::byte{0}; })) {
    fault("left counters that are not zero");
  }
  for (std::size_t i = 0; i < count; ++i) {
    const std::string name = built.op->args[i].name;
    fault(canary_fault(run.blocks[i], name));
    fault(canary_fault(built.args[i].block, name));
    if (built.args[i].block.checksum() != built.args[i].checksum) fault("changed its input " + name);
    if (is_written(built.op->args[i].role) && !is_inout(built.op->args[i].role) && run.views[i].rank > 0 &&
        !gaps_are_whole(run.views[i], run.blocks[i], poison)) {
      fault("wrote between the rows of " + name);
    }
  }
  return run;
}

const char* first_difference(const OpCase& built, const WatchedRun& a, const WatchedRun& b) noexcept {
  for (std::size_t i = 0; i < built.args.size(); ++i) {
    const Role role = built.op->args[i].role;
    if (!is_written(role) || a.views[i].is_absent() || b.views[i].is_absent()) continue;
    bool equal = true;
    if (is_inout(role)) {
      equal = std::ranges::equal(a.blocks[i].bytes(), b.blocks[i].bytes());
    } else {
      const std::byte* first_a = a.blocks[i].data();
      const std::byte* first_b = b.blocks[i].data();
      for_each_row(a.views[i], [&](const std::byte* row, std::int64_t count) {
        equal = equal && std::memcmp(row, first_b + (row - first_a),
                                     static_cast<std::size_t>(bytes_of(a.views[i].dtype, count))) == 0;
      });
    }
    if (!equal) return built.op->args[i].name;
  }
  return nullptr;
}

}  // namespace fathom::harness
