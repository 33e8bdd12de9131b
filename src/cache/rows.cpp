// Whole rows in and out of paged caches, for the host: filling, inspecting and converting them.
#include <algorithm>
#include <cinttypes>
#include <cstring>
#include <vector>

#include "cache/row_codec.h"
#include "cache/row_layout.h"
#include "core/view_checks.h"

namespace fathom {
namespace {

Status check_slots(const char* call, const char* argument, const TensorView& slots) noexcept {
  if (slots.rank != 1 || slots.dtype != DType::i64 || slots.device != DeviceKind::cpu) {
    return Status::invalid("%s: %s has rank %d, type %s and lies on %s, expected i64 [n] on cpu", call, argument,
                           slots.rank, name_of(slots.dtype), name_of(slots.device));
  }
  if (slots.shape[0] < 0) return Status::invalid("%s: %s has %" PRId64 " elements", call, argument, slots.shape[0]);
  return check_memory(call, argument, slots, false);
}

Status check_cache(const char* call, const char* argument, const PagedCacheView& cache) noexcept {
  if (cache.device != DeviceKind::cpu) {
    return Status::invalid("%s: %s lies on %s, expected cpu", call, argument, name_of(cache.device));
  }
  return check_paged_cache(call, argument, cache);
}

Status check_values(const char* call, const PagedCacheView& cache, const TensorView& slots,
                    const TensorView& values, bool is_written) noexcept {
  if (values.rank != 2 || (values.dtype != DType::f32 && values.dtype != DType::bf16) ||
      values.device != DeviceKind::cpu) {
    return Status::invalid("%s: values has rank %d, type %s and lies on %s, expected f32 or bf16 [n, dim] on cpu", call,
                           values.rank, name_of(values.dtype), name_of(values.device));
  }
  if (values.shape[0] != slots.shape[0] || values.shape[1] != cache.layout.dim || values.strides[1] != 1) {
    return Status::invalid("%s: values has shape [%" PRId64 ", %" PRId64 "] and last stride %" PRId64
                           ", expected [n=%" PRId64 ", dim=%d] and 1",
                           call, values.shape[0], values.shape[1], values.strides[1], slots.shape[0], cache.layout.dim);
  }
  return check_memory(call, "values", values, is_written);
}

}  // namespace

Status write_rows(const PagedCacheView& cache, const TensorView& slots, const TensorView& values) noexcept {
  return guarded("write_rows", [&]() -> Status {
    FATHOM_TRY(check_cache("write_rows", "cache", cache));
    FATHOM_TRY(check_slots("write_rows", "slots", slots));
    FATHOM_TRY(check_values("write_rows", cache, slots, values, false));
    std::vector<float> widened(values.dtype == DType::bf16 ? cache.layout.dim : 0);
    for (std::int64_t i = 0; i < slots.shape[0]; ++i) {
      const std::int64_t slot = slots.at<std::int64_t>(i);
      if (!cache.holds(slot)) continue;
      const float* row = nullptr;
      if (values.dtype == DType::bf16) {
        std::transform(values.row<bf16>(i), values.row<bf16>(i) + cache.layout.dim, widened.begin(), to_f32);
        row = widened.data();
      } else {
        row = values.row<float>(i);
      }
      encode_row(cache.layout, row, cache.row(slot), cache.footer(slot));
    }
    return {};
  });
}

Status read_rows(const PagedCacheView& cache, const TensorView& slots, const TensorView& values) noexcept {
  return guarded("read_rows", [&]() -> Status {
    FATHOM_TRY(check_cache("read_rows", "cache", cache));
    FATHOM_TRY(check_slots("read_rows", "slots", slots));
    FATHOM_TRY(check_values("read_rows", cache, slots, values, true));
    std::vector<float> row(cache.layout.dim);
    for (std::int64_t i = 0; i < slots.shape[0]; ++i) {
      const std::int64_t slot = slots.at<std::int64_t>(i);
      if (cache.holds(slot)) {
        decode_row(cache.layout, cache.row(slot), cache.footer(slot), row.data());
      } else {
        std::fill(row.begin(), row.end(), 0.0f);
      }
      if (values.dtype == DType::bf16) {
        std::transform(row.begin(), row.end(), values.row<bf16>(i), to_bf16);
      } else {
        std::copy(row.begin(), row.end(), values.row<float>(i));
      }
    }
    return {};
  });
}

Status convert_rows(const PagedCacheView& from, const TensorView& from_slots, const PagedCacheView& to,
                    const TensorView& to_slots) noexcept {
  return guarded("convert_rows", [&]() -> Status {
    FATHOM_TRY(check_cache("convert_rows", "from", from));
    FATHOM_TRY(check_cache("convert_rows", "to", to));
    FATHOM_TRY(check_slots("convert_rows", "from_slots", from_slots));
    FATHOM_TRY(check_slots("convert_rows", "to_slots", to_slots));
    if (from_slots.shape[0] != to_slots.shape[0]) {
      return Status::invalid("convert_rows: to_slots has %" PRId64 " elements, expected %" PRId64 " as from_slots",
                             to_slots.shape[0], from_slots.shape[0]);
    }
    if (from.layout.dim != to.layout.dim) {
      return Status::invalid("convert_rows: to holds rows of %d, from holds rows of %d", to.layout.dim,
                             from.layout.dim);
    }
    std::vector<float> row(from.layout.dim);
    for (std::int64_t i = 0; i < from_slots.shape[0]; ++i) {
      const std::int64_t source = from_slots.at<std::int64_t>(i), target = to_slots.at<std::int64_t>(i);
      if (!from.holds(source) || !to.holds(target)) continue;
      if (from.layout.format == to.layout.format) {  // bytes: re-encoding may choose another scale for the same values
        std::memmove(to.row(target), from.row(source), from.layout.row_bytes);
        std::memmove(to.footer(target), from.footer(source), from.layout.footer_bytes);
      } else {
        decode_row(from.layout, from.row(source), from.footer(source), row.data());
        encode_row(to.layout, row.data(), to.row(target), to.footer(target));
      }
    }
    return {};
  });
}

}  // namespace fathom
