// q_form and out_form on a GPU: attend's own norm, rotation, turning back and codes give the bits of the passes that
// they replace, wherever a kernel has its results: whole, in a cluster's memory, in parts.
#include <gtest/gtest.h>

#include <algorithm>

#include "support/attend_forms.h"
#include "support/cuda.h"

namespace fathom {
namespace {

constexpr const char* kCases[] = {
    "num_tokens=300 num_heads=64 window_rows=list window_width=40 seed=1",                                 // whole
    "num_tokens=1 num_heads=64 window_width=128 entries_rows=list entries_width=512 context=4000 seed=2",  // a
                                                                                                           // cluster
    "num_tokens=2 num_heads=16 num_seqs=2 window_width=128 entries_rows=range entries_width=8000 context=9000 "
    "seed=3",  // parts
    "num_tokens=9 num_heads=20 num_seqs=3 window_width=128 entries_rows=list entries_width=300 holes=1 seed=4",
    "num_tokens=70 num_heads=128 num_seqs=3 window_width=60 holes=1 seed=5",
    "num_tokens=5 num_heads=3 window_width=24 split=fixed seed=6",
    "num_tokens=5 num_heads=64 window_width=600 context=900 split=fixed seed=7",
    "num_tokens=5 num_heads=3 num_seqs=2 window_width=24 strided=1 seed=8",
};

class AttendFormsOnCuda : public testing::TestWithParam<const char*> {};

TEST_P(AttendFormsOnCuda, GiveTheBitsOfTheirPasses) {
  FATHOM_NEEDS_CUDA(device);
  for (const char* text : kCases) {
    SCOPED_TRACE(text);
    for (const Device& one : {device, device.limited_to({.num_multiprocessors = 4})}) {
      test::AttendForms forms(one, text, GetParam(), "");
      if (!forms.is_taken()) GTEST_SKIP() << GetParam() << " is for another GPU";
      forms.raw_queries_change_nothing();
      forms.unrotated_results_are_outputs_own();
      forms.codes_are_those_of_the_quantiser();
    }
  }
}

TEST(AttendFormsInF32, GiveTheBitsOfTheirPasses) {
  FATHOM_NEEDS_CUDA(device);
  test::AttendForms forms(
      device, "num_tokens=4 num_heads=3 window_width=16 window_format=kv_f32 q_dtype=f32 out_dtype=f32 holes=1",
      "cuda:simt", "");
  forms.raw_queries_change_nothing();
  forms.unrotated_results_are_outputs_own();
}

INSTANTIATE_TEST_SUITE_P(All, AttendFormsOnCuda, testing::Values("cuda:sm90", "cuda:sm80", "cuda:simt"),
                         [](const auto& tested) {
                           std::string name = tested.param;
                           std::replace(name.begin(), name.end(), ':', '_');
                           return name;
                         });

}  // namespace
}  // namespace fathom
