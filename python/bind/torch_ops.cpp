// torch.ops.fathom.*: every op of the table through PyTorch's stable ABI, so that one binary serves all torch from 2.10
// on.
//
// Schemas are written from the op table when the library is loaded. Each op has two: NAME.out, implemented here, writes
// to tensors that its schema declares as mutated and returns nothing; NAME makes the required outputs
// (fathom/torch_ops.py). `problem` is a line of problem text; plans are kept for each text and device. A workspace
// comes from torch's allocator for each call, on torch's stream, so calls may be captured into CUDA graphs and need no
// lock.
#include <dlfcn.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fathom/c/fathom.h"
#include "fathom/core/op.h"

namespace {

using torch::stable::Tensor;

constexpr std::size_t kMostOps = 32;

/// "window.cache" as a Python word.
std::string keyword(const char* name) {
  std::string word = name;
  for (char& letter : word) {
    if (letter == '.') letter = '_';
  }
  return word;
}

bool is_output(const fathom::ArgSpec& arg) {
  return arg.role == fathom::Role::out || arg.role == fathom::Role::optional_out;
}

/// The schemas of NAME.out and NAME, all by keyword: inputs and changed tensors, the problem, then outputs, or these
/// returned. An op whose outputs are all optional has no second form.
std::pair<std::string, std::string> schemas(const fathom::OpSpec& op) {
  std::string inputs, outputs, returned;
  char alias = 'a';
  for (const fathom::ArgSpec& arg : op.args) {
    const bool optional = fathom::is_optional(arg.role);
    std::string text = "Tensor";
    if (fathom::is_written(arg.role)) text += '(' + std::string(1, alias++) + "!)";
    text += (optional ? "? " : " ") + keyword(arg.name) + (optional ? "=None" : "");
    if (is_output(arg)) {
      outputs += ", " + text;
    } else {
      inputs += text + ", ";
    }
    if (arg.role == fathom::Role::out) returned += returned.empty() ? "Tensor" : ", Tensor";
  }
  if (returned != "Tensor") returned = '(' + returned + ')';
  const std::string name = op.name, both = "(*, " + inputs + "str problem, str force=\"\"";
  const bool chooses = returned == "()" && !outputs.empty();
  return {name + ".out" + both + outputs + ") -> ()", chooses ? std::string() : name + both + ") -> " + returned};
}

void require(bool holds, const std::string& sentence) {
  if (!holds) throw std::runtime_error(sentence);  // a RuntimeError in Python
}
void check(fathom_code code, const fathom_status& status) { require(code == FATHOM_OK, status.text); }

/// torch's number of an element type as ours; -1 for the others.
int dtype_of(std::int32_t theirs) {
  static const std::map<std::int32_t, int> known = [] {
    std::map<std::int32_t, int> found{
        {aoti_torch_dtype_float32(), FATHOM_F32},        {aoti_torch_dtype_bfloat16(), FATHOM_BF16},
        {aoti_torch_dtype_float8_e4m3fn(), FATHOM_E4M3}, {aoti_torch_dtype_int32(), FATHOM_I32},
        {aoti_torch_dtype_int64(), FATHOM_I64},          {aoti_torch_dtype_uint8(), FATHOM_U8}};
    // torch 2.11 names it; looked up so that 2.10 can load this library.
    if (void* name = dlsym(RTLD_DEFAULT, "torch_dtype_float8_e8m0fnu")) {
      found[reinterpret_cast<std::int32_t (*)()>(name)()] = FATHOM_UE8M0;
    }
    return found;
  }();
  const auto at = known.find(theirs);
  return at == known.end() ? -1 : at->second;
}

fathom_tensor view_of(const Tensor& tensor, const fathom::OpSpec& op, const char* name) {
  std::int32_t dtype = 0, device_type = 0, device_index = 0;
  std::int64_t rank = 0, *sizes = nullptr, *strides = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(tensor.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(tensor.get(), &device_index));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dim(tensor.get(), &rank));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(tensor.get(), &sizes));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(tensor.get(), &strides));
  fathom_tensor view{};
  const int own = dtype_of(dtype);
  const std::string who = std::string(op.name) + ": " + name;
  require(own >= 0, who + " has an element type that Fathom has no name for");
  require(rank >= 1 && rank <= FATHOM_MAX_RANK, who + " has " + std::to_string(rank) + " extents, expected 1 to 4");
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(tensor.get(), &view.data));
  view.dtype = static_cast<std::uint8_t>(own);
  view.device = device_type == aoti_torch_device_type_cuda() ? FATHOM_CUDA : FATHOM_CPU;
  view.device_index = static_cast<std::int16_t>(view.device == FATHOM_CUDA ? device_index : 0);
  view.rank = static_cast<std::int32_t>(rank);
  for (std::int64_t i = 0; i < rank; ++i) view.shape[i] = sizes[i], view.strides[i] = strides[i];
  return view;
}

/// The stream torch works on. Asked of libtorch_cuda when it is first needed: a CPU-only torch has none.
void* current_stream(std::int32_t device_index) {
  using Ask = AOTITorchError (*)(std::int32_t, void**);
  static const Ask ask = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return library == nullptr ? nullptr : reinterpret_cast<Ask>(dlsym(library, "aoti_torch_get_current_cuda_stream"));
  }();
  require(ask != nullptr, "fathom: this torch has no CUDA streams");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(ask(device_index, &stream));
  return stream;
}

struct Planned {
  fathom_plan* plan = nullptr;
  fathom_workspace_size size{};
};

/// Plans live as long as the process: a captured graph may refer to one.
Planned plan_of(const fathom::OpSpec& op, const std::string& problem, const std::string& force,
                const fathom_tensor& first) {
  static std::mutex mutex;
  static std::map<std::string, Planned> plans;
  const std::string device = first.device == FATHOM_CUDA ? "cuda:" + std::to_string(first.device_index) : "cpu";
  std::string key = op.name;
  for (const std::string* part : {&device, &force, &problem}) key += '\n' + *part;
  const std::lock_guard lock(mutex);
  if (const auto found = plans.find(key); found != plans.end()) return found->second;
  fathom_status status;
  fathom_device* made = nullptr;
  check(fathom_device_create(device.c_str(), 0, &made, &status), status);
  Planned planned;
  const fathom_code code = fathom_plan_create(op.name, problem.c_str(), made, force.c_str(), &planned.plan, &status);
  fathom_device_destroy(made);
  check(code, status);
  check(fathom_plan_workspace_size(planned.plan, &planned.size, &status), status);
  return plans.emplace(std::move(key), planned).first->second;
}

/// NAME.out for the op at `place` of the table. Inputs arrive in the schema's order: not outputs, problem, force,
/// outputs.
void run(std::size_t place, StableIValue* stack, std::uint64_t count) {
  using torch::stable::detail::to;
  const fathom::OpSpec& op = *fathom::op_table()[place];
  require(count == op.args.size() + 2, std::string(op.name) + ": the schema is not this library's");
  std::vector<fathom_tensor> views(op.args.size(), fathom_tensor{});
  std::vector<Tensor> kept;
  kept.reserve(op.args.size());
  std::string problem, force;
  std::uint64_t at = 0;
  for (const bool outputs : {false, true}) {
    if (outputs) {
      problem = to<std::string>(stack[at++]);
      force = to<std::string>(stack[at++]);
    }
    for (std::size_t i = 0; i < op.args.size(); ++i) {
      const fathom::ArgSpec& arg = op.args[i];
      if (is_output(arg) != outputs) continue;
      if (fathom::is_optional(arg.role)) {
        std::optional<Tensor> given = to<std::optional<Tensor>>(stack[at++]);
        if (!given) continue;
        kept.push_back(std::move(*given));
      } else {
        kept.push_back(to<Tensor>(stack[at++]));
      }
      views[i] = view_of(kept.back(), op, arg.name);
    }
  }
  fathom_tensor first{};
  for (const fathom_tensor& view : views) {
    if (view.rank > 0 && (first.rank == 0 || view.device == FATHOM_CUDA)) first = view;
  }
  const Planned planned = plan_of(op, problem, force, first);
  void* stream = first.device == FATHOM_CUDA ? current_stream(first.device_index) : nullptr;

  constexpr std::int64_t kUnit = FATHOM_WORKSPACE_ALIGNMENT;
  std::int64_t bytes = 0;
  for (const std::int64_t part : {planned.size.scratch, planned.size.counters, planned.size.schedule})
    bytes += (part + kUnit - 1) / kUnit * kUnit;
  Tensor room;
  fathom_workspace workspace{};
  fathom_status status;
  if (bytes > 0) {
    const std::int64_t size = bytes + kUnit, stride = 1;
    AtenTensorHandle handle = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
        1, &size, &stride, aoti_torch_dtype_uint8(),
        first.device == FATHOM_CUDA ? aoti_torch_device_type_cuda() : aoti_torch_device_type_cpu(), first.device_index,
        &handle));
    room = Tensor(handle);
    void* data = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(handle, &data));
    const auto address = (reinterpret_cast<std::uintptr_t>(data) + kUnit - 1) / kUnit * kUnit;
    check(fathom_workspace_carve(reinterpret_cast<void*>(address), bytes, &planned.size, &workspace, &status), status);
    if (planned.size.counters > 0) check(fathom_workspace_init(planned.plan, &workspace, stream, &status), status);
  }
  check(fathom_run(planned.plan, views.data(), static_cast<std::int32_t>(views.size()), &workspace, stream, &status),
        status);
}

template <std::size_t Place>
void run_at(StableIValue* stack, std::uint64_t num_args, std::uint64_t) {
  run(Place, stack, num_args);
}

template <std::size_t... Places>
constexpr auto runs_of(std::index_sequence<Places...>) {
  return std::array<void (*)(StableIValue*, std::uint64_t, std::uint64_t), sizeof...(Places)>{&run_at<Places>...};
}
constexpr auto kRuns = runs_of(std::make_index_sequence<kMostOps>{});

void implement(torch::stable::detail::StableLibrary& m) {
  const auto table = fathom::op_table();
  for (std::size_t place = 0; place < table.size(); ++place)
    m.impl((std::string(table[place]->name) + ".out").c_str(), kRuns[place]);
}

}  // namespace

STABLE_TORCH_LIBRARY(fathom, m) {
  require(fathom::op_table().size() <= kMostOps, "fathom: more ops than this library was built for");
  for (const fathom::OpSpec* op : fathom::op_table()) {
    const auto [out, making] = schemas(*op);
    m.def(out.c_str());
    if (!making.empty()) m.def(making.c_str());
  }
}
STABLE_TORCH_LIBRARY_IMPL(fathom, CPU, m) { implement(m); }
STABLE_TORCH_LIBRARY_IMPL(fathom, CUDA, m) { implement(m); }
