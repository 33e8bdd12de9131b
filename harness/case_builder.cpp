// How arguments get their bytes: shapes from the op table, strides and values from the case.
#include "harness/case_builder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "harness/numbers.h"

namespace fathom::harness {
namespace {

/// Strides of the view: packed, or rows apart by a few elements where the case asks for it. The gap keeps packed FP4
/// rows on whole bytes and leaves f32 rows unaligned to any vector.
void set_strides(TensorView& view, bool apart) {
  std::int64_t stride = 1;
  for (int i = view.rank - 1; i >= 0; --i) {
    view.strides[i] = stride;
    stride *= std::max<std::int64_t>(view.shape[i], 1);
    if (apart && i > 0) stride += 6;
  }
}

template <class T>
void fill_rows(const TensorView& view, T&& value) {
  for_each_row(view, [&](std::byte* row, std::int64_t count) {
    if (view.dtype == DType::bf16) {
      for (std::int64_t i = 0; i < count; ++i) reinterpret_cast<bf16*>(row)[i] = to_bf16(value());
    } else {
      for (std::int64_t i = 0; i < count; ++i) reinterpret_cast<float*>(row)[i] = value();
    }
  });
}

}  // namespace

CaseBuilder::CaseBuilder(OpCase& built) : built_(built), random_(static_cast<std::uint64_t>(1)) {
  random_ = Random(static_cast<std::uint64_t>(word("seed", 1)));
  const auto brought = [&](const char* field, const char* count) {
    const std::int64_t most = problem_integer(*built_.op->problem, built_.problem.data(), field);
    const std::int64_t asked_for = word(count, most);
    if (asked_for > most) {
      note(Status::invalid("case: %s is %lld, expected at most %s=%lld", count, static_cast<long long>(asked_for),
                           field, static_cast<long long>(most)));
    }
    if (most >= 0) extents_[field] = asked_for;
    return std::max<std::int64_t>(asked_for, 0);
  };
  tokens_ = brought("num_tokens", "tokens");
  seqs_ = brought("num_seqs", "seqs");
}

std::int64_t CaseBuilder::word(std::string_view name, std::int64_t otherwise) const noexcept {
  const auto found = built_.words.find(name);
  return found == built_.words.end() ? otherwise : found->second;
}

void CaseBuilder::set_extent(std::string_view name, std::int64_t value) { extents_[std::string(name)] = value; }

const ArgSpec& CaseBuilder::spec_of(std::string_view name) const noexcept {
  return built_.op->args[built_.index_of(name)];
}

TensorView CaseBuilder::shaped(std::string_view name, std::optional<DType> dtype) {
  const ArgSpec& spec = spec_of(name);
  TensorView view;
  auto shape = arg_shape(*built_.op, built_.problem.data(), spec, extents_);
  note(shape.status());
  if (!shape.ok()) return view;
  view.rank = static_cast<std::int32_t>(shape->size());
  std::copy(shape->begin(), shape->end(), view.shape.begin());
  view.dtype = dtype.value_or(arg_dtypes(*built_.op, built_.problem.data(), spec).value().front());
  set_strides(view, asked("strided"));
  return view;
}

TensorView CaseBuilder::add(std::string_view name, std::optional<DType> dtype) {
  Argument& argument = built_.args[built_.index_of(name)];
  argument.view = shaped(name, dtype);
  argument.block = GuardedBlock(span_bytes(argument.view));
  argument.view.data = argument.block.data();
  argument.presence = Presence::given;
  return argument.view;
}

void CaseBuilder::add_output(std::string_view name, std::optional<DType> dtype) {
  Argument& argument = built_.args[built_.index_of(name)];
  argument.view = shaped(name, dtype);
  const bool wanted = word("outputs", random_.chance(0.7) ? 1 : 0) != 0;
  argument.presence = wanted || !is_optional(spec_of(name).role) ? Presence::given : Presence::reference_only;
}

void CaseBuilder::require_output(std::string_view name) noexcept {
  built_.args[built_.index_of(name)].presence = Presence::given;
}

PagedCacheView CaseBuilder::add_cache(std::string_view name, CacheFormat format, int dim, std::int64_t page_size,
                                      std::int64_t num_pages) {
  Argument& argument = built_.args[built_.index_of(name)];
  const auto layout = row_layout(format, dim);
  note(layout.status());
  if (!layout.ok()) return {};
  const std::int64_t page_bytes = layout->page_bytes(page_size);
  // Engines round strides up; some do not, and only multiples of 16 are asked of them. Drawn in any case, so that
  // `strided` changes no value.
  const bool rounded = random_.chance(0.5);
  const std::int64_t stride = asked("strided") ? (page_bytes + 31) / 16 * 16
                              : rounded        ? layout->page_stride(page_size)
                                               : page_bytes;
  argument.view = view(nullptr, DType::u8, {num_pages, page_bytes});
  argument.view.strides[0] = stride;
  argument.block = GuardedBlock(num_pages * stride, std::byte{0xff});
  argument.view.data = argument.block.data();
  argument.presence = Presence::given;
  const auto cache = paged_cache(built_.op->name, spec_of(name).name, argument.view, layout.value(), page_size);
  note(cache.status());
  return cache.ok() ? cache.value() : PagedCacheView{};
}

void CaseBuilder::fill_normal(const TensorView& view, float scale, float mean, bool may_be_hostile) {
  fill_rows(view, [&] { return random_.normal() * scale + mean; });
  if (!may_be_hostile || !asked("nans") || view.numel() == 0) return;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  // The last two are left out by nans=2. Huge means that squares still fit into f32: the f64 reference would not
  // overflow.
  const float hostile[] = {
      std::numeric_limits<float>::quiet_NaN(), 1e16f, -1e16f, 1e-42f, -0.0f, kInfinity, -kInfinity};
  const std::size_t kinds = std::size(hostile) - (word("nans") == 2 ? 2 : 0);
  std::vector<std::byte*> rows;
  for_each_row(view, [&](std::byte* row, std::int64_t) { rows.push_back(row); });
  // Each kind at least once, all in the first half of the rows: the others have to stay clean.
  const auto half = static_cast<std::int64_t>(rows.size() + 1) / 2;
  const std::int64_t count = std::max<std::int64_t>(static_cast<std::int64_t>(kinds), view.numel() / 400);
  for (std::int64_t i = 0; i < count; ++i) {
    std::byte* row = rows[static_cast<std::size_t>(random_.below(half))];
    const std::int64_t at = random_.below(view.shape[view.rank - 1]);
    const float value = hostile[static_cast<std::size_t>(i) % kinds];
    if (view.dtype == DType::bf16) {
      reinterpret_cast<bf16*>(row)[at] = to_bf16(value);
    } else {
      reinterpret_cast<float*>(row)[at] = value;
    }
  }
}

void CaseBuilder::add_normal(std::string_view name, float scale, float mean, bool may_be_hostile) {
  fill_normal(add(name), scale, mean, may_be_hostile);
}

void CaseBuilder::add_weight(std::string_view name, std::int64_t in_dim) {
  const TensorView weight = add(name);
  const float scale = 1.0f / std::sqrt(static_cast<float>(std::max<std::int64_t>(in_dim, 1)));
  if (weight.dtype != DType::e4m3) return fill_normal(weight, scale);
  // Codes of normal values with deviation 64, tile scales around the power of two that undoes it.
  const std::vector<std::uint8_t>& codes = normal_e4m3_codes();
  for_each_row(weight, [&](std::byte* row, std::int64_t count) {
    std::uint64_t pool = 0;
    for (std::int64_t i = 0; i < count; ++i, pool >>= 12) {
      if (i % 5 == 0) pool = random_.bits();
      row[i] = static_cast<std::byte>(codes[pool & 0xfff]);
    }
  });
  const TensorView scales = add(std::string(name) + "_scale");
  const int centre = 127 + static_cast<int>(std::lround(std::log2(scale / 64.0f)));
  for_each_row(scales, [&](std::byte* row, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) row[i] = static_cast<std::byte>(centre + random_.between(-1, 1));
  });
}

void CaseBuilder::add_norm(std::string_view name) { fill_normal(add(name, any_dtype(name)), 0.1f, 1.0f); }

DType CaseBuilder::any_dtype(std::string_view name) {
  const auto dtypes = arg_dtypes(*built_.op, built_.problem.data(), spec_of(name)).value();
  return dtypes[static_cast<std::size_t>(random_.below(static_cast<std::int64_t>(dtypes.size())))];
}

void set_integer(const TensorView& vector, std::int64_t i, std::int64_t value) noexcept {
  if (vector.dtype == DType::i64) {
    vector.at<std::int64_t>(i) = value;
  } else {
    vector.at<std::int32_t>(i) = static_cast<std::int32_t>(value);
  }
}
std::int64_t integer_at(const TensorView& vector, std::int64_t i) noexcept {
  return vector.dtype == DType::i64 ? vector.at<std::int64_t>(i) : vector.at<std::int32_t>(i);
}

}  // namespace fathom::harness
