// The tolerance table. A bound that has to grow needs a reason that explains the growth.
#include "harness/tolerance.h"

#include "fathom/attend.h"

namespace fathom::harness {
namespace {

constexpr double kBf16Step = 1.0 / 128;  // the largest distance of neighbours, relative to the smaller

/// attend whose queries are raw, as an op of the table below.
constexpr std::string_view kAttendRaw = "attend q_form=raw";

/// The first line that fits decides. Empty op or argument: any. `served`: 1 only with bf16 activations, 0 only without,
/// -1 both.
struct Rule {
  std::string_view op;
  std::string_view argument;
  int served;
  DType dtype;
  Tolerance tolerance;
};
constexpr Rule kRules[] = {
    {"layer",
     "attn_out",
     1,
     DType::bf16,
     {0.15, kBf16Step, 1.5e-2, "code flips in cached rows move every later sum, in small layers more"}},
    {"layer", "out", 1, DType::bf16, {0.15, kBf16Step, 2e-2, "the same behind one more quantised product"}},
    {"layer", "out", 1, DType::f32, {0.15, 0, 2e-2, "the same, not rounded at the end"}},
    {"layer",
     "index_scores",
     1,
     DType::f32,
     {0.5, 0, 2e-2, "one FP4 step of a query or key moves the scores it enters"}},
    {"layer", "index_scores", 0, DType::f32, {1e-3, 0, 1e-4, "scores of few heads cancel"}},
    {"layer", "", 0, DType::f32, {1e-3, 0, 2e-5, "five stages of f32 sums in other orders"}},
    {"project", "q", 1, DType::bf16, {2e-2, kBf16Step, 4e-3, "a rounding flip of the latent moves all heads a little"}},
    {"output",
     "out",
     1,
     DType::bf16,
     {2e-2, kBf16Step, 4e-3, "a rounding flip between the two products moves all outputs a little"}},
    {"output", "out", 1, DType::f32, {2e-2, 0, 4e-3, "the same, not rounded at the end"}},
    {kAttendRaw,
     "out",
     1,
     DType::bf16,
     {3e-2, kBf16Step, 4e-3, "a head's factor may flip: all its logits move by a bf16 step"}},
    {kAttendRaw,
     "out",
     1,
     DType::f32,
     {3e-2, kBf16Step, 4e-3, "a head's factor may flip: all its logits move by a bf16 step"}},
    {kAttendRaw,
     "",
     1,
     DType::f32,
     {1e-2, kBf16Step, 4e-3, "a head's factor may flip: all its logits move by a bf16 step"}},
    {"attend",
     "out",
     1,
     DType::bf16,
     {1.5e-2, kBf16Step, 4e-3, "probabilities may be bf16 (FlashMLA's own test: 2.01/128)"}},
    {"attend",
     "out",
     1,
     DType::f32,
     {1.5e-2, kBf16Step / 2, 4e-3, "probabilities may be bf16; a row alone is off by its own"}},
    {"attend", "out", 0, DType::bf16, {1e-3, kBf16Step, 2e-3, "bf16 keeps 8 bits"}},
    {"attend", "out", 0, DType::f32, {5e-5, 1e-5, 1e-5, "f32 sums in another order, and an f32 exponential"}},
    {"attend",
     "",
     -1,
     DType::f32,
     {2e-6, 1e-5, 1e-5, "f32 sums and logarithm (FlashMLA's own test: 1e-6, 8.01/65536)"}},
    {"index_query",
     "q",
     1,
     DType::f32,
     {4e-3, kBf16Step, 1e-3, "a rounding flip before the Hadamard rotation moves the sums behind it a little"}},
    {"index_query", "weights", 1, DType::f32, {1e-4, kBf16Step, 1e-3, "a bf16 product before the factor"}},
    {"", "", -1, DType::bf16, {1e-4, kBf16Step, 1e-3, "one rounding to bf16 on either side of a boundary"}},
    {"", "", -1, DType::f32, {5e-5, 1e-5, 1e-5, "f32 sums in another order"}},
};
constexpr Tolerance kEqual{0, 0, 0, "not a sum: equal"};

}  // namespace

bool is_served(const OpCase& built) noexcept {
  if (const ProblemField* field = find_field(*built.op->problem, "numerics")) {
    return static_cast<Numerics>(built.problem[field->offset]) == Numerics::served;
  }
  const ProblemField* field = find_field(*built.op->problem, "q_dtype");  // attend says it by its queries
  return field != nullptr && static_cast<DType>(built.problem[field->offset]) == DType::bf16;
}

Tolerance tolerance_of(const OpCase& built, std::string_view name, DType dtype) noexcept {
  const int served = is_served(built) ? 1 : 0;
  const std::string_view op = built.op->name;
  const bool is_raw = op == "attend" && built.problem_as<AttendProblem>().q_form == QForm::raw;
  for (const Rule& rule : kRules) {
    const bool fits = (rule.op.empty() || rule.op == op || (is_raw && rule.op == kAttendRaw)) &&
                      (rule.argument.empty() || rule.argument == name) && (rule.served < 0 || rule.served == served) &&
                      rule.dtype == dtype;
    if (fits) return rule.tolerance;
  }
  return kEqual;
}

double pick_tolerance(const OpCase& built) noexcept { return is_served(built) ? 4e-3 : 1e-5; }

}  // namespace fathom::harness
