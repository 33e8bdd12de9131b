/* One op through the C interface: three queries attend to the last four rows of a paged f32 cache.
 *
 * The queries are zero, so every row a query sees weighs the same and `out` is the mean of those rows: easy to check. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "fathom/c/fathom.h"

enum { kTokens = 3, kHeads = 2, kDim = 64, kPages = 2, kPageSize = 4, kWindow = 4 };

/* Ends the program with the status's sentence; a library would hand it on. */
static void check(fathom_code code, const fathom_status* status) {
  if (code == FATHOM_OK) return;
  fprintf(stderr, "%s: %s\n", fathom_code_name((int32_t)code), status->text);
  exit(1);
}

int main(void) {
  static float q[kTokens * kHeads * kDim], cache[kPages * kPageSize * kDim], out[kTokens * kHeads * kDim];
  /* Sequence 0 has its rows 0..3 in page 1 and rows 4..7 in page 0. */
  int32_t block_table[kPages] = {1, 0};
  int32_t seq_ids[kTokens] = {0, 0, 0};
  int32_t begin[kTokens], end[kTokens];
  fathom_status status;
  fathom_device* device = NULL;
  fathom_plan* plan = NULL;
  fathom_workspace_size size;
  fathom_workspace workspace;

  for (int row = 0; row < kPages * kPageSize; ++row) {
    const int slot = block_table[row / kPageSize] * kPageSize + row % kPageSize;
    for (int i = 0; i < kDim; ++i) cache[slot * kDim + i] = (float)row;
  }
  /* The queries stand at positions 5, 6, 7 and see kWindow rows each, themselves included. */
  for (int token = 0; token < kTokens; ++token) {
    end[token] = 5 + token + 1;
    begin[token] = end[token] - kWindow;
  }

  check(fathom_device_create("cpu", 0, &device, &status), &status);
  check(fathom_plan_create("attend",
                           "num_tokens=3 num_heads=2 head_dim=64 value_dim=64 q_dtype=f32 out_dtype=f32 "
                           "softmax_scale=0.125 window_format=kv_f32 window_page_size=4 window_width=4",
                           device, NULL, &plan, &status),
        &status);
  check(fathom_plan_workspace_size(plan, &size, &status), &status);
  const int64_t bytes = size.scratch + size.counters + size.schedule;
  void* block = bytes == 0 ? NULL : aligned_alloc(FATHOM_WORKSPACE_ALIGNMENT, (size_t)bytes);
  check(fathom_workspace_carve(block, bytes, &size, &workspace, &status), &status);
  check(fathom_workspace_init(plan, &workspace, NULL, &status), &status);

  /* Every argument of docs/ops/attend.md in its order; an absent view leaves an optional one out. */
  const fathom_tensor absent = {0};
  const fathom_tensor args[] = {
      fathom_tensor_packed(q, FATHOM_F32, 3, kTokens, kHeads, kDim, 0),
      fathom_tensor_packed(seq_ids, FATHOM_I32, 1, kTokens, 0, 0, 0),
      fathom_tensor_packed(cache, FATHOM_U8, 2, kPages, kPageSize * kDim * (int64_t)sizeof(float), 0, 0),
      absent, /* window.indices: of lists */
      absent, /* window.lengths */
      fathom_tensor_packed(begin, FATHOM_I32, 1, kTokens, 0, 0, 0),
      fathom_tensor_packed(end, FATHOM_I32, 1, kTokens, 0, 0, 0),
      fathom_tensor_packed(block_table, FATHOM_I32, 2, 1, kPages, 0, 0),
      absent,
      absent,
      absent,
      absent,
      absent,
      absent, /* entries.*: this layer has none */
      absent, /* attn_sink */
      fathom_tensor_packed(out, FATHOM_F32, 3, kTokens, kHeads, kDim, 0),
      absent, /* lse */
      absent, /* max_logits */
      absent, /* rope_table: queries come rotated, the result stays so */
      absent, /* positions */
      absent, /* out_scale */
  };
  check(fathom_run(plan, args, (int32_t)(sizeof(args) / sizeof(args[0])), &workspace, NULL, &status), &status);

  int wrong = 0;
  for (int token = 0; token < kTokens; ++token) {
    const float expected = (float)(begin[token] + end[token] - 1) / 2;
    printf("query at position %d sees rows %d..%d: out = %.3f, expected %.3f\n", 5 + token, begin[token], end[token] - 1,
           out[token * kHeads * kDim], expected);
    for (int i = 0; i < kHeads * kDim; ++i) wrong += fabsf(out[token * kHeads * kDim + i] - expected) > 1e-5f;
  }
  printf("fathom %s, attend by \"%s\": %s\n", fathom_version(), fathom_plan_implementation(plan), wrong ? "WRONG" : "right");

  free(block);
  fathom_plan_destroy(plan);
  fathom_device_destroy(device);
  return wrong ? 1 : 0;
}
