// CaseBuilder: what the generators of all ops are made of. A generator decides values; shapes and dtypes come from the
// op table, so that a generator cannot disagree with the declaration.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "fathom/cache.h"
#include "fathom/config.h"
#include "harness/op_case.h"
#include "harness/random.h"

namespace fathom::harness {

class CaseBuilder {
 public:
  explicit CaseBuilder(OpCase& built);

  template <class Problem>
  const Problem& problem() const noexcept {
    return built_.problem_as<Problem>();
  }
  Random& random() noexcept { return random_; }
  /// The word's value, or `otherwise`.
  std::int64_t word(std::string_view name, std::int64_t otherwise = 0) const noexcept;
  bool asked(std::string_view name) const noexcept { return word(name) != 0; }
  /// Tokens and sequences this run brings: the problem's, or fewer by the words `tokens` and `seqs`.
  std::int64_t tokens() const noexcept { return tokens_; }
  std::int64_t seqs() const noexcept { return seqs_; }
  /// Gives a name in shapes its value.
  void set_extent(std::string_view name, std::int64_t value);

  /// Allocates the argument and returns its view, bytes all zero; the first allowed dtype unless one is named.
  TensorView add(std::string_view name, std::optional<DType> dtype = std::nullopt);
  /// Declares an output. Optional ones are given by a seeded choice that the word `outputs` overrides (0: none, 1:
  /// all).
  void add_output(std::string_view name, std::optional<DType> dtype = std::nullopt);
  /// This case must have the output, though the table calls it optional.
  void require_output(std::string_view name) noexcept;
  /// An argument that was added.
  TensorView view_of(std::string_view name) const noexcept { return built_.arg(name).view; }
  /// A paged cache of `num_pages` pages, every byte 0xFF: whatever is not written reads as NaN.
  PagedCacheView add_cache(std::string_view name, CacheFormat format, int dim, std::int64_t page_size,
                           std::int64_t num_pages);
  /// The first thing that went wrong in any call above.
  const Status& status() const noexcept { return status_; }
  void note(const Status& status) noexcept {
    if (status_.ok()) status_ = status;
  }

  // ---- values ----
  /// Normal values times `scale` plus `mean`, in f32 or bf16; the word `nans` sprinkles NaN and infinities over them.
  void fill_normal(const TensorView& view, float scale = 1.0f, float mean = 0.0f, bool may_be_hostile = false);
  void add_normal(std::string_view name, float scale = 1.0f, float mean = 0.0f, bool may_be_hostile = false);
  /// A projection of rows of `in_dim` elements whose outputs have about unit variance; e4m3 weights get their tile
  /// scales as the argument `name`_scale.
  void add_weight(std::string_view name, std::int64_t in_dim);
  /// A norm weight near 1, f32 or bf16 by a seeded choice.
  void add_norm(std::string_view name);
  /// One of the dtypes the argument allows, by a seeded choice.
  DType any_dtype(std::string_view name);

 private:
  const ArgSpec& spec_of(std::string_view name) const noexcept;
  TensorView shaped(std::string_view name, std::optional<DType> dtype);

  OpCase& built_;
  Random random_;
  Extents extents_;
  std::int64_t tokens_, seqs_;
  Status status_;
};

/// Sets element `i` of an i32 or i64 vector.
void set_integer(const TensorView& vector, std::int64_t i, std::int64_t value) noexcept;
std::int64_t integer_at(const TensorView& vector, std::int64_t i) noexcept;

}  // namespace fathom::harness
