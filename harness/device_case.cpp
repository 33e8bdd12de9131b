#include "harness/device_case.h"

namespace fathom::harness {
namespace {

constexpr std::int64_t kAlignment = 256;

std::int64_t aligned(std::int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

bool is_pure_output(Role role) noexcept { return is_written(role) && !is_inout(role); }

std::int64_t block_bytes(const OpCase& built, std::size_t i) {
  return is_pure_output(built.op->args[i].role) ? span_bytes(built.args[i].view) : built.args[i].block.size();
}

}  // namespace

Result<DeviceCase> DeviceCase::create(const OpCase& built, const Device& device, std::optional<std::byte> poison) {
  DeviceCase result(device);
  std::int64_t total = 0;
  for (std::size_t i = 0; i < built.args.size(); ++i) {
    const Argument& argument = built.args[i];
    const bool given = argument.presence == Presence::given;
    const bool is_input = given && !is_pure_output(built.op->args[i].role) && argument.view.data != nullptr;
    result.views_.push_back(given ? argument.view : TensorView());
    result.offsets_.push_back(total);
    result.inside_.push_back(is_input ? static_cast<std::byte*>(argument.view.data) - argument.block.data() : 0);
    if (given) total += aligned(block_bytes(built, i));
  }
  FATHOM_ASSIGN(result.memory_, DeviceMemory::allocate(device, total));
  result.place(result.memory_.data());
  FATHOM_TRY(result.fill(built, poison));
  return result;
}

void DeviceCase::place(std::byte* at) {
  for (std::size_t i = 0; i < views_.size(); ++i) {
    if (views_[i].is_absent()) continue;
    views_[i].data = at + offsets_[i] + inside_[i];
    views_[i].device = device_.kind();
    views_[i].device_index = static_cast<std::int16_t>(device_.index());
  }
}

Result<DeviceCase> DeviceCase::copy() const {
  DeviceCase other(device_);
  other.views_ = views_;
  other.offsets_ = offsets_;
  other.inside_ = inside_;
  FATHOM_ASSIGN(other.memory_, DeviceMemory::allocate(device_, bytes()));
  FATHOM_TRY(copy_bytes(device_, other.memory_.data(), memory_.data(), bytes()));
  other.place(other.memory_.data());
  return other;
}

Status DeviceCase::fill(const OpCase& built, std::optional<std::byte> poison) {
  for (std::size_t i = 0; i < views_.size(); ++i) {
    if (views_[i].is_absent()) continue;
    std::byte* to = memory_.data() + offsets_[i];
    if (is_pure_output(built.op->args[i].role)) {
      if (poison) FATHOM_TRY(fill_bytes(device_, to, *poison, block_bytes(built, i)));
    } else {
      FATHOM_TRY(copy_bytes(device_, to, built.args[i].block.data(), block_bytes(built, i)));
    }
  }
  return synchronize(device_);
}

Result<WatchedRun> DeviceCase::read(const OpCase& built) const {
  WatchedRun run;
  run.views = views_;
  run.blocks.resize(views_.size());
  for (std::size_t i = 0; i < views_.size(); ++i) {
    if (views_[i].is_absent()) continue;
    run.views[i] = built.args[i].view;
    if (!is_written(built.op->args[i].role)) continue;
    run.blocks[i] = GuardedBlock(block_bytes(built, i));
    FATHOM_TRY(copy_bytes(device_, run.blocks[i].data(), memory_.data() + offsets_[i], run.blocks[i].size()));
    run.views[i].data = run.blocks[i].data() + inside_[i];
  }
  FATHOM_TRY(synchronize(device_));
  return run;
}

}  // namespace fathom::harness
