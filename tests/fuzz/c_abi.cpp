// The C interface with spoilt arguments: views of any rank, type, shape and stride (as long as they stay inside memory
// that is there, which no library can check), workspaces too small or askew, texts, sizes, numbers and nulls of any
// kind.
#include <array>
#include <bit>
#include <memory>
#include <vector>

#include "fathom/c/fathom.h"
#include "fuzz/targets.h"
#include "harness/case_builder.h"
#include "harness/op_case.h"

namespace fathom::fuzz {
namespace {

constexpr int kMostArgs = 64;
constexpr const char* kCases[] = {
    "num_tokens=3 in_dim=8 out_dim=5 x_dtype=f32 weight_dtype=f32 out_dtype=f32 seed=1",
    "num_tokens=3 num_heads=2 head_dim=8 rope_dim=4 hidden_size=8 q_rank=4 numerics=exact window_format=kv_f32 "
    "weight_dtype=f32 seed=1",
    "num_tokens=5 hidden_size=8 dim=8 rope_dim=4 ratio=2 format=kv_f32 numerics=exact weight_dtype=f32 seed=1",
    "num_tokens=3 hidden_size=8 q_rank=8 index_heads=2 index_dim=8 rope_dim=4 format=index_f32 numerics=exact "
    "weight_dtype=f32 seed=1",
    "num_tokens=3 index_heads=2 index_dim=8 topk=3 context=20 format=index_f32 outputs=1 seed=1",
    "num_tokens=3 num_scores=9 topk=4 seed=1",
    "num_tokens=3 num_heads=2 head_dim=8 value_dim=8 window_width=5 window_format=kv_f32 entries_rows=list "
    "entries_width=4 "
    "entries_format=kv_f32 q_dtype=f32 out_dtype=f32 outputs=1 seed=1",
    "num_tokens=3 num_heads=2 value_dim=8 outputs=1 seed=1",
    "num_tokens=3 num_heads=2 head_dim=8 rope_dim=4 hidden_size=8 output_groups=1 output_rank=4 numerics=exact "
    "out_dtype=f32 "
    "weight_dtype=f32 seed=1"};
constexpr const char* kOps[] = {"linear",      "project", "compress",       "index_query", "index",
                                "select_topk", "attend",  "merge_partials", "output"};

fathom_device* device() {
  static fathom_device* const made = [] {
    fathom_device* cpu = nullptr;
    fathom_device_create("cpu", 1, &cpu, nullptr);
    return cpu;
  }();
  return made;
}

/// One op with right arguments, made once.
struct Op {
  harness::OpCase built;
  std::unique_ptr<fathom_plan, decltype(&fathom_plan_destroy)> plan{nullptr, &fathom_plan_destroy};
  std::vector<harness::GuardedBlock> outputs;  ///< of each argument that is written
  std::vector<fathom_tensor> args;
  harness::GuardedBlock memory;
  fathom_workspace workspace{};

  /// Bytes of argument i from its base on.
  std::int64_t room(std::size_t i) const {
    return (outputs[i].data() != nullptr ? outputs[i] : built.args[i].block).size();
  }
};

Op make_op(int number) {
  Op op;
  auto built = harness::make_case(kOps[number], kCases[number]);
  require(built.ok(), std::string(kOps[number]) + ": " + built.status().text());
  op.built = std::move(built).value();
  const std::string text = fathom::problem_text(*op.built.op->problem, op.built.problem.data());
  fathom_plan* plan = nullptr;
  require(fathom_plan_create(kOps[number], text.c_str(), device(), nullptr, &plan, nullptr) == FATHOM_OK, "no plan");
  op.plan.reset(plan);
  op.outputs.resize(op.built.args.size());
  for (std::size_t i = 0; i < op.built.args.size(); ++i) {
    const harness::Argument& argument = op.built.args[i];
    TensorView view = argument.presence == harness::Presence::given ? argument.view : TensorView{};
    if (is_written(op.built.op->args[i].role) && !view.is_absent()) {
      op.outputs[i] = harness::GuardedBlock(
          harness::is_inout(op.built.op->args[i].role) ? argument.block.size() : harness::span_bytes(view),
          std::byte{0x3f});
      view.data = op.outputs[i].data();
    }
    op.args.push_back(std::bit_cast<fathom_tensor>(view));
  }
  fathom_workspace_size size{};
  fathom_plan_workspace_size(plan, &size, nullptr);
  op.memory = harness::GuardedBlock(size.scratch + size.counters + size.schedule + 1024);
  fathom_workspace_carve(op.memory.data(), op.memory.size(), &size, &op.workspace, nullptr);
  fathom_workspace_init(plan, &op.workspace, nullptr, nullptr);
  return op;
}

Op& op_number(int number) {
  static std::array<std::unique_ptr<Op>, std::size(kOps)> made;
  auto& op = made[number];
  if (op == nullptr) op = std::make_unique<Op>(make_op(number));
  return *op;
}

/// Whether what the view describes lies within `room` bytes; what it does not describe at all, the library must refuse.
bool stays_inside(const fathom_tensor& tensor, std::int64_t room) {
  if (tensor.data == nullptr || tensor.rank < 1 || tensor.rank > FATHOM_MAX_RANK || tensor.dtype >= kDTypeCount)
    return true;
  unsigned __int128 elements = 1;
  for (int i = 0; i < tensor.rank; ++i) {
    if (tensor.shape[i] < 0 || tensor.strides[i] < 0 || tensor.shape[i] == 0) return true;
    elements += static_cast<unsigned __int128>(tensor.shape[i] - 1) * static_cast<unsigned __int128>(tensor.strides[i]);
  }
  return elements * static_cast<unsigned>(bits_of(static_cast<DType>(tensor.dtype))) <=
         static_cast<unsigned __int128>(room) * 8;
}

void spoil(fathom_tensor& tensor, Reader& reader, std::int64_t room) {
  const fathom_tensor right = tensor;
  for (int changes = 1 + reader.byte() % 3; changes > 0; --changes) {
    const std::uint8_t what = reader.byte();
    switch (what % 8) {
      case 0:
        tensor.rank = static_cast<std::int32_t>(reader.number());
        break;
      case 1:
        tensor.dtype = reader.byte();
        break;
      case 2:
        tensor.device = reader.byte();
        break;
      case 3:
        tensor.device_index = static_cast<std::int16_t>(reader.number());
        break;
      case 4:
        tensor.shape[what / 8 % 4] = reader.number();
        break;
      case 5:
        tensor.strides[what / 8 % 4] = reader.number();
        break;
      case 6:
        tensor = fathom_tensor{};
        break;
      default:
        // Further into the memory, by bytes: askew, and with less room behind it.
        if (tensor.data != nullptr && what / 8 < room) tensor.data = static_cast<std::byte*>(right.data) + what / 8;
        if (what / 8 % 16 == 15) tensor.data = nullptr;
    }
  }
  const std::int64_t skipped = tensor.data == nullptr || right.data == nullptr
                                   ? 0
                                   : static_cast<std::byte*>(tensor.data) - static_cast<std::byte*>(right.data);
  if (!stays_inside(tensor, room - skipped)) tensor = right;
}

void run_spoilt(Reader& reader) {
  Op& op = op_number(reader.byte() % std::size(kOps));
  std::array<fathom_tensor, kMostArgs> args{};
  std::copy(op.args.begin(), op.args.end(), args.begin());
  for (int i = reader.byte() % 4; i > 0; --i) {
    const std::size_t at = reader.byte() % op.args.size();
    spoil(args[at], reader, op.room(at));
  }
  fathom_workspace workspace = op.workspace;
  const std::uint8_t trick = reader.byte();
  if (trick % 8 == 1) workspace.scratch.bytes -= trick;
  if (trick % 8 == 2) workspace.scratch.data = nullptr;
  if (trick % 8 == 3 && workspace.scratch.bytes > 256) {
    workspace.scratch.data = static_cast<std::byte*>(workspace.scratch.data) + trick / 8;
    workspace.scratch.bytes -= trick / 8;
  }
  const auto right_count = static_cast<std::int32_t>(op.args.size());
  const std::int32_t count = trick >= 224   ? static_cast<std::int32_t>(trick - 224) * 2
                             : trick >= 220 ? -1 - trick
                                            : right_count;
  std::vector<std::uint64_t> before;
  for (const harness::GuardedBlock& block : op.outputs)
    before.push_back(block.data() == nullptr ? 0 : block.checksum());
  fathom_status status{};
  const fathom_code code = fathom_run(op.plan.get(), args.data(), count, &workspace, nullptr, &status);
  require(status.code == code, "the code returned is not the status's");
  for (std::size_t i = 0; i < op.outputs.size(); ++i) {
    const harness::GuardedBlock& block = op.outputs[i];
    if (block.data() == nullptr) continue;
    require(block.broken_side() == nullptr, std::string("wrote past ") + op.built.op->args[i].name);
    require(code == FATHOM_OK || block.checksum() == before[i],
            std::string("refused, and wrote ") + op.built.op->args[i].name);
  }
  for (const harness::Argument& argument : op.built.args) {
    require(argument.block.data() == nullptr || argument.block.checksum() == argument.checksum, "an input was changed");
  }
  require(op.memory.broken_side() == nullptr, "wrote past the workspace");
  require(code == FATHOM_OK || status.text[0] != '\0', "a refusal without a word");
}

void texts(Reader& reader) {
  char buffer[300];
  std::fill(std::begin(buffer), std::end(buffer), '#');
  std::int64_t capacity = reader.number(), size = -1;
  capacity = std::min<std::int64_t>(capacity, 256);
  char* const to = reader.byte() % 8 == 0 ? nullptr : buffer;
  const char* const op = fathom_op_name(static_cast<std::int32_t>(reader.number()));
  const Input rest = reader.rest();
  const std::string text(rest.begin(), rest.end());
  switch (capacity & 3) {
    case 0:
      fathom_op_json(op, to, capacity, &size, nullptr);
      break;
    case 1:
      fathom_device_json(device(), to, capacity, &size, nullptr);
      break;
    case 2:
      fathom_candidates_json(op, text.c_str(), device(), to, capacity, &size, nullptr);
      break;
    default: {
      fathom_config* config = nullptr;
      if (fathom_config_parse(text.c_str(), &config, nullptr) == FATHOM_OK) {
        fathom_config_layer_problem(config, static_cast<std::int32_t>(capacity), "served", to, capacity, &size,
                                    nullptr);
      }
      fathom_config_destroy(config);
    }
  }
  for (std::size_t i = static_cast<std::size_t>(std::max<std::int64_t>(capacity, 0)); i < sizeof(buffer); ++i) {
    require(buffer[i] == '#', "a text past its buffer");
  }
}

void plans(Reader& reader) {
  const char* const op = kOps[reader.byte() % std::size(kOps)];
  const char* const forces[] = {nullptr, "", "reference", "cpu", "linear=cpu", "attend=", "=", "nothing"};
  const char* const force = forces[reader.byte() % std::size(forces)];
  const Input rest = reader.rest();
  const std::string text(rest.begin(), rest.end());
  fathom_plan* plan = nullptr;
  fathom_status status{};
  const fathom_code code = fathom_plan_create(op, text.c_str(), device(), force, &plan, &status);
  require((code == FATHOM_OK) == (plan != nullptr), "a plan and a refusal");
  fathom_plan_destroy(plan);
}

void workspaces(Reader& reader) {
  alignas(256) static std::byte block[4096];
  const fathom_workspace_size size{reader.number(), reader.number(), reader.number()};
  const std::uint8_t skip = reader.byte();
  const std::int64_t bytes = std::clamp<std::int64_t>(reader.number(), -4096, 256) * 16 - skip;
  fathom_workspace workspace{};
  if (fathom_workspace_carve(skip == 255 ? nullptr : block + skip, bytes, &size, &workspace, nullptr) != FATHOM_OK)
    return;
  for (const fathom_buffer& part : {workspace.scratch, workspace.counters, workspace.schedule}) {
    const auto* at = static_cast<const std::byte*>(part.data);
    require(part.bytes == 0 || at == nullptr || (at >= block && at + part.bytes <= block + skip + bytes),
            "a part outside its block");
  }
}

void rows(Reader& reader) {
  static std::vector<std::byte> pages(4096);
  static std::vector<std::int64_t> slots(16);
  static std::vector<float> values(1024);
  const char* const formats[] = {"kv_f32",         "kv_bf16",          "kv_e4m3_ue8m0", "kv_e4m3_f32", "index_f32",
                                 "index_e4m3_f32", "index_e2m1_ue8m0", "state_f32",     "no"};
  const char* const format = formats[reader.byte() % std::size(formats)];
  const auto dim = static_cast<std::int32_t>(reader.byte() % 4 == 0 ? reader.number() : 32 << reader.byte() % 6);
  const std::int64_t page_size = reader.number();
  for (std::int64_t& slot : slots) slot = reader.number();
  fathom_tensor views[] = {
      fathom_tensor_packed(pages.data(), FATHOM_U8, 2, 2, 2048, 0, 0),
      fathom_tensor_packed(slots.data(), FATHOM_I64, 1, 2, 0, 0, 0),
      fathom_tensor_packed(values.data(), FATHOM_F32, 2, 2, dim > 0 && dim <= 512 ? dim : 512, 0, 0)};
  const std::int64_t room[] = {4096, 128, 4096};
  const std::uint8_t which = reader.byte();
  for (int i = 0; i < 3; ++i) {
    if ((which >> i & 1) != 0) spoil(views[i], reader, room[i]);
  }
  if ((which & 64) != 0) {
    fathom_cache_write(format, dim, page_size, &views[0], &views[1], &views[2], nullptr);
  } else {
    fathom_cache_read(format, dim, page_size, &views[0], &views[1], &views[2], nullptr);
  }
  fathom_rope rope{static_cast<std::int32_t>(reader.number()),
                   reader.take<float>(),
                   reader.take<float>(),
                   reader.take<float>(),
                   reader.take<float>(),
                   reader.number()};
  fathom_rope_table(&rope, reader.number(), &views[2], nullptr);
}

}  // namespace

void c_abi(Input input) {
  Reader reader(input);
  switch (reader.byte() % 8) {
    case 0:
      return texts(reader);
    case 1:
      return plans(reader);
    case 2:
      return workspaces(reader);
    case 3:
      return rows(reader);
    default:
      return run_spoilt(reader);
  }
}

}  // namespace fathom::fuzz
