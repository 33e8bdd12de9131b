// The C interface: each function checks its pointers, calls its C++ twin and copies the status out.
#include "fathom/c/fathom.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

#include "c_api/op_json.h"
#include "c_api/handover.h"
#include "fathom/cache.h"
#include "fathom/config.h"
#include "fathom/core/plan.h"

using fathom::CacheFormat;
using fathom::Status;
using fathom::c_api::copy_text;
using fathom::c_api::is_null;
using fathom::c_api::report;
using fathom::c_api::reported;
using fathom::c_api::to_view;
using fathom::StatusCode;
using fathom::TensorView;

namespace {

// The C structs and enums are the C++ ones under C names; these lines stop the two from drifting apart.
static_assert(FATHOM_OK == static_cast<int>(StatusCode::ok));
static_assert(FATHOM_INVALID_ARGUMENT == static_cast<int>(StatusCode::invalid_argument));
static_assert(FATHOM_UNSUPPORTED == static_cast<int>(StatusCode::unsupported));
static_assert(FATHOM_INSUFFICIENT_WORKSPACE == static_cast<int>(StatusCode::insufficient_workspace));
static_assert(FATHOM_RESOURCE_EXHAUSTED == static_cast<int>(StatusCode::resource_exhausted));
static_assert(FATHOM_DEVICE_ERROR == static_cast<int>(StatusCode::device_error));
static_assert(FATHOM_STATUS_TEXT_BYTES == Status::kTextBytes);

static_assert(FATHOM_F32 == static_cast<int>(fathom::DType::f32));
static_assert(FATHOM_BF16 == static_cast<int>(fathom::DType::bf16));
static_assert(FATHOM_E4M3 == static_cast<int>(fathom::DType::e4m3));
static_assert(FATHOM_E2M1X2 == static_cast<int>(fathom::DType::e2m1x2));
static_assert(FATHOM_UE8M0 == static_cast<int>(fathom::DType::ue8m0));
static_assert(FATHOM_I32 == static_cast<int>(fathom::DType::i32));
static_assert(FATHOM_I64 == static_cast<int>(fathom::DType::i64));
static_assert(FATHOM_U8 == static_cast<int>(fathom::DType::u8) && FATHOM_U8 + 1 == fathom::kDTypeCount);
static_assert(FATHOM_CPU == static_cast<int>(fathom::DeviceKind::cpu));
static_assert(FATHOM_CUDA == static_cast<int>(fathom::DeviceKind::cuda));

static_assert(FATHOM_MAX_RANK == TensorView::kMaxRank);
static_assert(sizeof(fathom_tensor) == sizeof(TensorView) && std::is_trivially_copyable_v<TensorView>);
static_assert(offsetof(fathom_tensor, data) == offsetof(TensorView, data));
static_assert(offsetof(fathom_tensor, dtype) == offsetof(TensorView, dtype));
static_assert(offsetof(fathom_tensor, device) == offsetof(TensorView, device));
static_assert(offsetof(fathom_tensor, device_index) == offsetof(TensorView, device_index));
static_assert(offsetof(fathom_tensor, rank) == offsetof(TensorView, rank));
static_assert(offsetof(fathom_tensor, shape) == offsetof(TensorView, shape));
static_assert(offsetof(fathom_tensor, strides) == offsetof(TensorView, strides));

static_assert(FATHOM_WORKSPACE_ALIGNMENT == fathom::kWorkspaceAlignment);
static_assert(sizeof(fathom_workspace_size) == sizeof(fathom::WorkspaceSize));
static_assert(offsetof(fathom_workspace_size, counters) == offsetof(fathom::WorkspaceSize, counters));
static_assert(offsetof(fathom_workspace_size, schedule) == offsetof(fathom::WorkspaceSize, schedule));
static_assert(sizeof(fathom_workspace) == sizeof(fathom::Workspace));
static_assert(offsetof(fathom_workspace, counters) == offsetof(fathom::Workspace, counters));
static_assert(offsetof(fathom_workspace, schedule) == offsetof(fathom::Workspace, schedule));
static_assert(offsetof(fathom_buffer, bytes) == offsetof(fathom::Buffer, bytes));

/// Most arguments an op can have through this interface; runs copy the views to the stack. A test holds the table to it.
constexpr std::int32_t kMostArgs = 64;

fathom::Result<fathom::RowLayout> layout_from(const char* function, const char* format, std::int32_t dim,
                                              std::int64_t page_size) noexcept {
  if (format == nullptr) return is_null(function, "format");
  const std::optional<CacheFormat> cache_format = fathom::cache_format_from(format);
  if (!cache_format) return Status::invalid("%s: format is \"%.40s\", which names no row format", function, format);
  if (page_size < 1 || page_size > fathom::kMaxPageSize) {
    return Status::invalid("%s: page_size is %lld, expected 1 to %lld", function, static_cast<long long>(page_size),
                           static_cast<long long>(fathom::kMaxPageSize));
  }
  return fathom::row_layout(*cache_format, dim);
}

using RowCopy = Status (*)(const fathom::PagedCacheView&, const TensorView&, const TensorView&) noexcept;

Status copy_rows(const char* function, RowCopy copy, const char* format, std::int32_t dim, std::int64_t page_size,
                 const fathom_tensor* pages, const fathom_tensor* slots, const fathom_tensor* values) noexcept {
  if (pages == nullptr) return is_null(function, "pages");
  if (slots == nullptr) return is_null(function, "slots");
  if (values == nullptr) return is_null(function, "values");
  FATHOM_ASSIGN(const fathom::RowLayout layout, layout_from(function, format, dim, page_size));
  FATHOM_ASSIGN(const fathom::PagedCacheView cache,
                fathom::paged_cache(function, "pages", to_view(*pages), layout, page_size));
  return copy(cache, to_view(*slots), to_view(*values));
}

const fathom::OpSpec* op_called(const char* name) noexcept { return name == nullptr ? nullptr : fathom::find_op(name); }

Status no_op(const char* function, const char* name) noexcept {
  if (name == nullptr) return is_null(function, "op");
  return Status::invalid("%s: there is no op \"%.40s\"", function, name);
}

/// "cpu", "cuda" or "cuda:N".
fathom::Result<fathom::Device> device_called(std::string_view name, std::int32_t num_threads) noexcept {
  if (name == "cpu") return fathom::Device::cpu(num_threads);
  int index = 0;
  bool known = name == "cuda";
  if (name.starts_with("cuda:")) {
    const auto end = std::from_chars(name.data() + 5, name.data() + name.size(), index);
    known = end.ec == std::errc() && end.ptr == name.data() + name.size();
  }
  if (known) return fathom::Device::cuda(index);
  return Status::unsupported("fathom_device_create: name is \"%.*s\", expected \"cpu\", \"cuda\" or \"cuda:N\"",
                             static_cast<int>(std::min<std::size_t>(name.size(), 40)), name.data());
}

Status device_create(const char* name, std::int32_t num_threads, fathom_device** device) {
  constexpr const char* kFunction = "fathom_device_create";
  if (name == nullptr) return is_null(kFunction, "name");
  if (device == nullptr) return is_null(kFunction, "device");
  FATHOM_ASSIGN(fathom::Device made, device_called(name, num_threads));
  *device = new fathom_device{std::move(made)};
  return {};
}

Status plan_create(const char* op, const char* problem, const fathom_device* device, const char* force,
                   fathom_plan** plan) {
  constexpr const char* kFunction = "fathom_plan_create";
  if (op == nullptr) return is_null(kFunction, "op");
  if (problem == nullptr) return is_null(kFunction, "problem");
  if (device == nullptr) return is_null(kFunction, "device");
  if (plan == nullptr) return is_null(kFunction, "plan");
  fathom::PlanOptions options;
  if (force != nullptr) options.implementation = force;
  FATHOM_ASSIGN(fathom::AnyPlan made, fathom::plan_op(op, problem, device->device, options));
  *plan = new fathom_plan{std::move(made)};
  return {};
}

Status workspace_carve(void* block, std::int64_t bytes, const fathom_workspace_size* size, fathom_workspace* workspace) {
  constexpr const char* kFunction = "fathom_workspace_carve";
  if (size == nullptr) return is_null(kFunction, "size");
  if (workspace == nullptr) return is_null(kFunction, "workspace");
  constexpr std::int64_t kMostBytes = std::int64_t{1} << 60;
  std::int64_t needed = 0;
  for (const std::int64_t part : {size->scratch, size->counters, size->schedule}) {
    if (part < 0 || part > kMostBytes) {
      return Status::invalid("%s: size has a part of %lld bytes", kFunction, static_cast<long long>(part));
    }
    needed += (part + FATHOM_WORKSPACE_ALIGNMENT - 1) / FATHOM_WORKSPACE_ALIGNMENT * FATHOM_WORKSPACE_ALIGNMENT;
  }
  if (needed > 0 && (block == nullptr || bytes < needed)) {
    return Status::insufficient_workspace("%s: block has %lld bytes, expected at least %lld", kFunction,
                                          static_cast<long long>(block == nullptr ? 0 : bytes),
                                          static_cast<long long>(needed));
  }
  if (reinterpret_cast<std::uintptr_t>(block) % FATHOM_WORKSPACE_ALIGNMENT != 0) {
    return Status::invalid("%s: block is not aligned to %d bytes", kFunction, FATHOM_WORKSPACE_ALIGNMENT);
  }
  *workspace = fathom_workspace{};
  // Parts of no bytes stay NULL; carving nothing out of a NULL block must not compute addresses.
  if (needed > 0) {
    *workspace = std::bit_cast<fathom_workspace>(fathom::carve_workspace(block, std::bit_cast<fathom::WorkspaceSize>(*size)));
  }
  return {};
}

Status run(const fathom_plan* plan, const fathom_tensor* args, std::int32_t count, const fathom_workspace* workspace,
           void* stream) {
  constexpr const char* kFunction = "fathom_run";
  if (plan == nullptr) return is_null(kFunction, "plan");
  if (args == nullptr) return is_null(kFunction, "args");
  if (workspace == nullptr) return is_null(kFunction, "workspace");
  if (count < 0 || count > kMostArgs) {
    return Status::invalid("%s: count is %d, expected %zu", kFunction, count, plan->plan.op().args.size());
  }
  std::array<TensorView, kMostArgs> views;
  std::transform(args, args + count, views.begin(), to_view);
  return fathom::run_op(plan->plan, {views.data(), static_cast<std::size_t>(count)},
                        std::bit_cast<fathom::Workspace>(*workspace), fathom::Stream{stream});
}

Status candidates_text(const char* name, const char* problem, const fathom_device* device, std::string& text) {
  constexpr const char* kFunction = "fathom_candidates_json";
  const fathom::OpSpec* op = op_called(name);
  if (op == nullptr) return no_op(kFunction, name);
  if (problem == nullptr) return is_null(kFunction, "problem");
  if (device == nullptr) return is_null(kFunction, "device");
  std::vector<std::byte> parsed(op->problem->size);
  FATHOM_TRY(fathom::parse_problem(*op->problem, problem, parsed.data()));
  FATHOM_ASSIGN(const std::vector<fathom::Candidate> list, fathom::candidates(*op, parsed.data(), device->device));
  text = fathom::candidates_json(list);
  return {};
}

}  // namespace

int32_t fathom_abi_version(void) { return FATHOM_C_ABI_VERSION; }
const char* fathom_version(void) { return FATHOM_VERSION; }

const char* fathom_code_name(int32_t code) {
  return code < FATHOM_OK || code > FATHOM_DEVICE_ERROR ? "unknown" : fathom::name_of(static_cast<StatusCode>(code));
}

fathom_tensor fathom_tensor_packed(void* data, int32_t dtype, int32_t rank, int64_t extent0, int64_t extent1,
                                   int64_t extent2, int64_t extent3) {
  fathom_tensor tensor{};
  if (rank < 1 || rank > FATHOM_MAX_RANK || dtype < 0 || dtype >= fathom::kDTypeCount) return tensor;
  const int64_t extents[FATHOM_MAX_RANK] = {extent0, extent1, extent2, extent3};
  tensor.data = data;
  tensor.dtype = static_cast<uint8_t>(dtype);
  tensor.device = FATHOM_CPU;
  tensor.rank = rank;
  int64_t stride = 1;
  for (int32_t i = rank - 1; i >= 0; --i) {
    tensor.shape[i] = extents[i];
    tensor.strides[i] = stride;
    // An extent no memory can hold is refused by every op; the product only has to stay defined.
    if (__builtin_mul_overflow(stride, extents[i], &stride)) stride = INT64_MAX;
  }
  return tensor;
}

fathom_code fathom_device_create(const char* name, int32_t num_threads, fathom_device** device, fathom_status* status) {
  return reported("fathom_device_create", status, [&] { return device_create(name, num_threads, device); });
}
void fathom_device_destroy(fathom_device* device) { delete device; }
fathom_code fathom_device_json(const fathom_device* device, char* buffer, int64_t capacity, int64_t* size,
                               fathom_status* status) {
  constexpr const char* kFunction = "fathom_device_json";
  return reported(kFunction, status, [&] {
    if (device == nullptr) return is_null(kFunction, "device");
    return copy_text(kFunction, fathom::device_json(device->device), buffer, capacity, size);
  });
}
int32_t fathom_cuda_count(void) { return fathom::Device::cuda_count(); }

fathom_code fathom_plan_create(const char* op, const char* problem, const fathom_device* device, const char* force,
                               fathom_plan** plan, fathom_status* status) {
  return reported("fathom_plan_create", status, [&] { return plan_create(op, problem, device, force, plan); });
}
void fathom_plan_destroy(fathom_plan* plan) { delete plan; }
const char* fathom_plan_op(const fathom_plan* plan) { return plan == nullptr ? nullptr : plan->plan.op().name; }
const char* fathom_plan_implementation(const fathom_plan* plan) {
  return plan == nullptr ? nullptr : plan->plan.implementation();
}

fathom_code fathom_plan_workspace_size(const fathom_plan* plan, fathom_workspace_size* size, fathom_status* status) {
  constexpr const char* kFunction = "fathom_plan_workspace_size";
  if (plan == nullptr) return report(is_null(kFunction, "plan"), status);
  if (size == nullptr) return report(is_null(kFunction, "size"), status);
  *size = std::bit_cast<fathom_workspace_size>(plan->plan.workspace_size());
  return report({}, status);
}

fathom_code fathom_workspace_carve(void* block, int64_t bytes, const fathom_workspace_size* size,
                                   fathom_workspace* workspace, fathom_status* status) {
  return report(workspace_carve(block, bytes, size, workspace), status);
}

fathom_code fathom_workspace_init(const fathom_plan* plan, const fathom_workspace* workspace, void* stream,
                                  fathom_status* status) {
  constexpr const char* kFunction = "fathom_workspace_init";
  if (plan == nullptr) return report(is_null(kFunction, "plan"), status);
  if (workspace == nullptr) return report(is_null(kFunction, "workspace"), status);
  return report(fathom::init_workspace(plan->plan, std::bit_cast<fathom::Workspace>(*workspace), fathom::Stream{stream}),
                status);
}

fathom_code fathom_run(const fathom_plan* plan, const fathom_tensor* args, int32_t count,
                       const fathom_workspace* workspace, void* stream, fathom_status* status) {
  return report(run(plan, args, count, workspace, stream), status);
}

int32_t fathom_op_count(void) { return static_cast<int32_t>(fathom::op_table().size()); }
const char* fathom_op_name(int32_t index) {
  return index < 0 || index >= fathom_op_count() ? nullptr : fathom::op_table()[static_cast<std::size_t>(index)]->name;
}

fathom_code fathom_op_json(const char* op, char* buffer, int64_t capacity, int64_t* size, fathom_status* status) {
  constexpr const char* kFunction = "fathom_op_json";
  return reported(kFunction, status, [&] {
    const fathom::OpSpec* spec = op_called(op);
    if (spec == nullptr) return no_op(kFunction, op);
    return copy_text(kFunction, fathom::op_json(*spec), buffer, capacity, size);
  });
}

fathom_code fathom_candidates_json(const char* op, const char* problem, const fathom_device* device, char* buffer,
                                   int64_t capacity, int64_t* size, fathom_status* status) {
  constexpr const char* kFunction = "fathom_candidates_json";
  return reported(kFunction, status, [&]() -> Status {
    std::string text;
    FATHOM_TRY(candidates_text(op, problem, device, text));
    return copy_text(kFunction, text, buffer, capacity, size);
  });
}

fathom_code fathom_rope_table(const fathom_rope* rope, int64_t first, const fathom_tensor* table, fathom_status* status) {
  constexpr const char* kFunction = "fathom_rope_table";
  if (rope == nullptr) return report(is_null(kFunction, "rope"), status);
  if (table == nullptr) return report(is_null(kFunction, "table"), status);
  fathom::RopeConfig config;
  config.rope_dim = rope->rope_dim;
  config.theta = rope->theta;
  config.factor = rope->factor;
  config.beta_fast = rope->beta_fast;
  config.beta_slow = rope->beta_slow;
  config.original_length = rope->original_length;
  return report(fathom::fill_rope_table(config, first, to_view(*table)), status);
}

fathom_code fathom_cache_layout_of(const char* format, int32_t dim, int64_t page_size, fathom_cache_layout* layout,
                                   fathom_status* status) {
  constexpr const char* kFunction = "fathom_cache_layout_of";
  if (layout == nullptr) return report(is_null(kFunction, "layout"), status);
  const auto rows = layout_from(kFunction, format, dim, page_size);
  if (rows.ok()) {
    *layout = {rows->dim,           rows->row_bytes, rows->footer_bytes, rows->page_alignment, rows->page_bytes(page_size),
               rows->page_stride(page_size)};
  }
  return report(rows.status(), status);
}

fathom_code fathom_cache_write(const char* format, int32_t dim, int64_t page_size, const fathom_tensor* pages,
                               const fathom_tensor* slots, const fathom_tensor* values, fathom_status* status) {
  return report(copy_rows("fathom_cache_write", fathom::write_rows, format, dim, page_size, pages, slots, values), status);
}
fathom_code fathom_cache_read(const char* format, int32_t dim, int64_t page_size, const fathom_tensor* pages,
                              const fathom_tensor* slots, const fathom_tensor* values, fathom_status* status) {
  return report(copy_rows("fathom_cache_read", fathom::read_rows, format, dim, page_size, pages, slots, values), status);
}
