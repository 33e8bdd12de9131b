// The row formats as data (spec 7), and views of tensors as pages of such rows.
#include <cinttypes>
#include <limits>

#include "cache/row_layout.h"
#include "core/view_checks.h"
#include "fathom/core/problem.h"

namespace fathom {
namespace {

constexpr std::int64_t kMaxPages = std::numeric_limits<std::int32_t>::max();  // block tables hold i32

// A quantised segment is followed in the table by the segment of its scales; row_codec.cpp relies on it.
constexpr RowLayout plain(CacheFormat format, DType dtype, int dim) noexcept {
  RowLayout layout;
  layout.format = format;
  layout.dim = dim;
  layout.row_bytes = static_cast<int>(bytes_of(dtype, dim));
  layout.num_segments = 1;
  layout.segments[0] = {.name = "row", .dtype = dtype, .count = dim};
  return layout;
}

constexpr RowLayout kv_e4m3_ue8m0() noexcept {
  RowLayout layout;
  layout.format = CacheFormat::kv_e4m3_ue8m0;
  layout.dim = 512;
  layout.row_bytes = 576;
  layout.footer_bytes = 8;
  layout.num_segments = 4;
  layout.segments[0] = {.name = "nope", .dtype = DType::e4m3, .first = 0, .count = 448, .offset = 0, .scale_block = 64};
  layout.segments[1] = {.name = "scales", .dtype = DType::ue8m0, .count = 7, .offset = 0, .in_footer = true};
  layout.segments[2] = {.name = "rope", .dtype = DType::bf16, .first = 448, .count = 64, .offset = 448};
  layout.segments[3] = {.name = "pad", .dtype = DType::u8, .count = 1, .offset = 7, .in_footer = true};
  layout.page_alignment = 576;
  return layout;
}

constexpr RowLayout kv_e4m3_f32() noexcept {
  RowLayout layout;
  layout.format = CacheFormat::kv_e4m3_f32;
  layout.dim = 576;
  layout.row_bytes = 656;
  layout.num_segments = 3;
  layout.segments[0] = {
      .name = "nope", .dtype = DType::e4m3, .first = 0, .count = 512, .offset = 0, .scale_block = 128};
  layout.segments[1] = {.name = "scales", .dtype = DType::f32, .count = 4, .offset = 512};
  layout.segments[2] = {.name = "rope", .dtype = DType::bf16, .first = 512, .count = 64, .offset = 528};
  return layout;
}

constexpr RowLayout index_e4m3_f32(int dim) noexcept {
  RowLayout layout;
  layout.format = CacheFormat::index_e4m3_f32;
  layout.dim = dim;
  layout.row_bytes = dim;
  layout.footer_bytes = 4;
  layout.num_segments = 2;
  layout.segments[0] = {.name = "row", .dtype = DType::e4m3, .first = 0, .count = dim, .offset = 0, .scale_block = dim};
  layout.segments[1] = {.name = "scales", .dtype = DType::f32, .count = 1, .offset = 0, .in_footer = true};
  return layout;
}

constexpr RowLayout index_e2m1_ue8m0(int dim) noexcept {
  RowLayout layout;
  layout.format = CacheFormat::index_e2m1_ue8m0;
  layout.dim = dim;
  layout.row_bytes = dim / 2;
  layout.footer_bytes = dim / 32;
  layout.num_segments = 2;
  layout.segments[0] = {
      .name = "row", .dtype = DType::e2m1x2, .first = 0, .count = dim, .offset = 0, .scale_block = 32};
  layout.segments[1] = {.name = "scales", .dtype = DType::ue8m0, .count = dim / 32, .offset = 0, .in_footer = true};
  return layout;
}

// Segments lie inside the row or footer, fill it, and cover every element of the decoded row once.
constexpr bool is_consistent(const RowLayout& layout) noexcept {
  std::int64_t in_row = 0, in_footer = 0, elements = 0;
  for (int i = 0; i < layout.num_segments; ++i) {
    const RowSegment& segment = layout.segments[i];
    const std::int64_t bytes = bytes_of(segment.dtype, segment.count);
    if (segment.offset + bytes > (segment.in_footer ? layout.footer_bytes : layout.row_bytes)) return false;
    (segment.in_footer ? in_footer : in_row) += bytes;
    const bool holds_scales = i > 0 && layout.segments[i - 1].scale_block > 0;
    if (holds_scales || segment.dtype == DType::u8) continue;
    if (segment.first != elements) return false;
    elements += segment.count;
    if (segment.scale_block == 0) continue;
    if (segment.count % segment.scale_block != 0) return false;
    if (layout.segments[i + 1].count != segment.count / segment.scale_block) return false;
  }
  return in_row == layout.row_bytes && in_footer == layout.footer_bytes && elements == layout.dim;
}

static_assert(is_consistent(plain(CacheFormat::kv_bf16, DType::bf16, 512)));
static_assert(is_consistent(kv_e4m3_ue8m0()) && kv_e4m3_ue8m0().page_bytes(1) == 584);
static_assert(is_consistent(kv_e4m3_f32()) && kv_e4m3_f32().page_bytes(1) == 656);
static_assert(is_consistent(index_e4m3_f32(128)) && index_e4m3_f32(128).page_bytes(1) == 132);
static_assert(is_consistent(index_e2m1_ue8m0(128)) && index_e2m1_ue8m0(128).page_bytes(1) == 68);
static_assert(index_e4m3_f32(128).page_stride(64) == 8448 && index_e2m1_ue8m0(128).page_stride(64) == 4352);
static_assert(kv_e4m3_ue8m0().page_stride(2) == 1728 && kv_e4m3_ue8m0().page_stride(32) == 19008 &&
              kv_e4m3_ue8m0().page_stride(64) == 37440 && kv_e4m3_ue8m0().page_stride(128) == 74880 &&
              kv_e4m3_ue8m0().page_stride(256) == 149760);

/// Widest element: bases and strides that are multiples of it keep every typed load aligned.
std::int64_t element_alignment(const RowLayout& layout) noexcept {
  std::int64_t widest = 1;
  for (int i = 0; i < layout.num_segments; ++i) {
    const std::int64_t bytes = bytes_of(layout.segments[i].dtype, 1);
    if (bytes > widest) widest = bytes;
  }
  return widest;
}

Status check_dim(CacheFormat format, int dim, int multiple) noexcept {
  if (dim < 1 || dim > kMaxDim || dim % multiple != 0) {
    return Status::invalid("row_layout: dim is %d, %s takes a multiple of %d from %d to %" PRId64, dim, name_of(format),
                           multiple, multiple, kMaxDim);
  }
  return {};
}

Status check_fixed_dim(const RowLayout& layout, int dim) noexcept {
  if (dim != layout.dim) {
    return Status::invalid("row_layout: dim is %d, %s holds rows of %d", dim, name_of(layout.format), layout.dim);
  }
  return {};
}

}  // namespace

Result<RowLayout> row_layout(CacheFormat format, int dim) noexcept {
  switch (format) {
    case CacheFormat::kv_f32:
    case CacheFormat::index_f32:
    case CacheFormat::state_f32:
      FATHOM_TRY(check_dim(format, dim, 1));
      return plain(format, DType::f32, dim);
    case CacheFormat::kv_bf16:
      FATHOM_TRY(check_dim(format, dim, 1));
      return plain(format, DType::bf16, dim);
    case CacheFormat::kv_e4m3_ue8m0:
      FATHOM_TRY(check_fixed_dim(kv_e4m3_ue8m0(), dim));
      return kv_e4m3_ue8m0();
    case CacheFormat::kv_e4m3_f32:
      FATHOM_TRY(check_fixed_dim(kv_e4m3_f32(), dim));
      return kv_e4m3_f32();
    case CacheFormat::index_e4m3_f32:
      FATHOM_TRY(check_dim(format, dim, 4));  // keeps the scales behind the rows aligned
      return index_e4m3_f32(dim);
    case CacheFormat::index_e2m1_ue8m0:
      FATHOM_TRY(check_dim(format, dim, 32));
      return index_e2m1_ue8m0(dim);
  }
  return Status::invalid("row_layout: format is %d, which is none of the cache formats", static_cast<int>(format));
}

Status check_paged_cache(const char* call, const char* argument, const PagedCacheView& cache) noexcept {
  if (cache.page_size < 1 || cache.page_size > kMaxPageSize) {
    return Status::invalid("%s: %s has page size %" PRId64 ", expected 1 to %" PRId64, call, argument, cache.page_size,
                           kMaxPageSize);
  }
  if (cache.num_pages < 0 || cache.num_pages > kMaxPages) {
    return Status::invalid("%s: %s has %" PRId64 " pages, expected 0 to %" PRId64, call, argument, cache.num_pages,
                           kMaxPages);
  }
  const std::int64_t least = cache.layout.page_bytes(cache.page_size);
  const std::int64_t shape[] = {cache.num_pages, least}, strides[] = {cache.page_stride, 1};
  FATHOM_TRY(check_strides(call, argument, shape, strides));
  if (cache.num_pages > 1 && cache.page_stride < least) {
    return Status::invalid("%s: %s has page stride %" PRId64 ", expected %" PRId64 " or more", call, argument,
                           cache.page_stride, least);
  }
  if (cache.num_pages > 0 && cache.pages == nullptr) {
    return Status::invalid("%s: %s has no data, expected %" PRId64 " pages", call, argument, cache.num_pages);
  }
  const std::int64_t alignment = element_alignment(cache.layout);
  if (reinterpret_cast<std::uintptr_t>(cache.pages) % alignment != 0 ||
      (cache.num_pages > 1 && cache.page_stride % alignment != 0)) {
    return Status::invalid("%s: %s has base %p and page stride %" PRId64 ", %s needs multiples of %" PRId64, call,
                           argument, static_cast<const void*>(cache.pages), cache.page_stride,
                           name_of(cache.layout.format), alignment);
  }
  return {};
}

Result<PagedCacheView> paged_cache(const char* op, const char* argument, const TensorView& pages,
                                   const RowLayout& layout, std::int64_t page_size) noexcept {
  if (pages.rank != 2 || pages.dtype != DType::u8) {
    return Status::invalid("%s: %s has rank %d and type %s, expected u8 [pages, page_bytes]", op, argument, pages.rank,
                           name_of(pages.dtype));
  }
  const PagedCacheView cache{.pages = static_cast<std::byte*>(pages.data),
                             .layout = layout,
                             .page_size = page_size,
                             .num_pages = pages.shape[0],
                             .page_stride = pages.strides[0],
                             .device = pages.device};
  FATHOM_TRY(check_paged_cache(op, argument, cache));
  const std::int64_t least = layout.page_bytes(page_size);
  if (pages.shape[1] < least) {
    return Status::invalid("%s: %s has pages of %" PRId64 " bytes, %" PRId64 " rows of %s with dim %d need %" PRId64,
                           op, argument, pages.shape[1], page_size, name_of(layout.format), layout.dim, least);
  }
  if (pages.strides[1] != 1) {
    return Status::invalid("%s: %s has strides [%" PRId64 ", %" PRId64 "], expected the last to be 1", op, argument,
                           pages.strides[0], pages.strides[1]);
  }
  return cache;
}

}  // namespace fathom
