/* Fathom's C interface: every op of the table behind a handful of functions. C99, no C++ needed.
 *
 * How to run an op
 *   1. fathom_device_create("cpu", 0, &device, &status)
 *   2. fathom_plan_create("attend", "num_tokens=3 num_heads=64 ...", device, NULL, &plan, &status)
 *   3. fathom_plan_workspace_size, allocate, fathom_workspace_carve, fathom_workspace_init
 *   4. fathom_run(plan, tensors, count, &workspace, NULL, &status), as often as you like
 * The arguments of an op, their order, shapes and types, and the fields of its problem text are what fathom_op_json says
 * and docs/ops shows.
 *
 * Rules
 *   - Every function that can fail returns a fathom_code and takes a fathom_status as its last argument, which may be NULL.
 *     The text lies in the caller's struct, so threads do not share it. No function throws, aborts or prints.
 *   - NULL where an object is required gives FATHOM_INVALID_ARGUMENT; on an error nothing else is written.
 *   - Plans and devices never change: any number of threads may use one at the same time, with distinct workspaces.
 *     Destroying a device that plans were made on is allowed; plans keep what they need.
 *   - Texts are zero-terminated UTF-8. Functions that write a text take `buffer`, its `capacity` in bytes, and `size`
 *     (may be NULL), which receives the bytes needed with the terminator. A NULL buffer of capacity 0 only asks for size;
 *     a buffer that is too short is an error and is left as it was.
 */
#ifndef FATHOM_C_FATHOM_H
#define FATHOM_C_FATHOM_H

#include <stdint.h>

#if defined(__GNUC__)
#define FATHOM_C_API __attribute__((visibility("default")))
#else
#define FATHOM_C_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Grows when a struct or a function of this header changes; equal numbers fit together. */
#define FATHOM_C_ABI_VERSION 1
FATHOM_C_API int32_t fathom_abi_version(void);
/* "0.1.0" */
FATHOM_C_API const char* fathom_version(void);

/* ---- Status ----------------------------------------------------------------------------------------------------- */

typedef enum fathom_code {
  FATHOM_OK = 0,
  FATHOM_INVALID_ARGUMENT = 1,       /* the caller's slip */
  FATHOM_UNSUPPORTED = 2,            /* a correct request that no implementation takes */
  FATHOM_INSUFFICIENT_WORKSPACE = 3,
  FATHOM_RESOURCE_EXHAUSTED = 4,
  FATHOM_DEVICE_ERROR = 5
} fathom_code;

#define FATHOM_STATUS_TEXT_BYTES 1000
typedef struct fathom_status {
  fathom_code code;
  char text[FATHOM_STATUS_TEXT_BYTES]; /* one sentence; empty when ok */
} fathom_status;

/* "ok", "invalid_argument", ...; "unknown" for a number that is no fathom_code. */
FATHOM_C_API const char* fathom_code_name(int32_t code);

/* ---- Tensors ---------------------------------------------------------------------------------------------------- */

typedef enum fathom_dtype {
  FATHOM_F32 = 0,
  FATHOM_BF16 = 1,
  FATHOM_E4M3 = 2,
  FATHOM_E2M1X2 = 3, /* two elements a byte, the even one in the low nibble */
  FATHOM_UE8M0 = 4,
  FATHOM_I32 = 5,
  FATHOM_I64 = 6,
  FATHOM_U8 = 7
} fathom_dtype;

typedef enum fathom_device_kind { FATHOM_CPU = 0, FATHOM_CUDA = 1 } fathom_device_kind;

#define FATHOM_MAX_RANK 4
/* A strided view of the caller's bytes. Strides count elements. rank 0 = an optional argument that is left out. */
typedef struct fathom_tensor {
  void* data;
  uint8_t dtype;  /* fathom_dtype */
  uint8_t device; /* fathom_device_kind */
  int16_t device_index;
  int32_t rank;
  int64_t shape[FATHOM_MAX_RANK];
  int64_t strides[FATHOM_MAX_RANK];
} fathom_tensor;

/* A densely packed view in host memory of a fathom_dtype; only the first `rank` extents are used. An absent view if rank
 * is not 1 to 4 or dtype is no fathom_dtype. */
FATHOM_C_API fathom_tensor fathom_tensor_packed(void* data, int32_t dtype, int32_t rank, int64_t extent0,
                                                int64_t extent1, int64_t extent2, int64_t extent3);

/* ---- Devices and plans ------------------------------------------------------------------------------------------ */

typedef struct fathom_device fathom_device;
typedef struct fathom_plan fathom_plan;

/* `name` is "cpu". num_threads = 0 takes every hardware thread this process may use. */
FATHOM_C_API fathom_code fathom_device_create(const char* name, int32_t num_threads, fathom_device** device,
                                              fathom_status* status);
/* NULL is allowed, here and in fathom_plan_destroy. */
FATHOM_C_API void fathom_device_destroy(fathom_device* device);

/* Plans `op` for one line of problem text ("num_tokens=3 num_heads=64"). `force` names the implementation to take
 * ("reference", "cpu"); NULL or "" takes the first that fits. */
FATHOM_C_API fathom_code fathom_plan_create(const char* op, const char* problem, const fathom_device* device,
                                            const char* force, fathom_plan** plan, fathom_status* status);
FATHOM_C_API void fathom_plan_destroy(fathom_plan* plan);
/* What was planned. The names live as long as the library; NULL for a NULL plan. */
FATHOM_C_API const char* fathom_plan_op(const fathom_plan* plan);
FATHOM_C_API const char* fathom_plan_implementation(const fathom_plan* plan);

/* ---- Workspaces and runs ---------------------------------------------------------------------------------------- */

#define FATHOM_WORKSPACE_ALIGNMENT 256
typedef struct fathom_workspace_size {
  int64_t scratch;  /* any content on entry, garbage on return */
  int64_t counters; /* zeroed once by fathom_workspace_init, left zero by every run; one for each stream */
  int64_t schedule; /* built once per step, shared by layers of a kind */
} fathom_workspace_size;

typedef struct fathom_buffer {
  void* data; /* aligned to FATHOM_WORKSPACE_ALIGNMENT */
  int64_t bytes;
} fathom_buffer;

typedef struct fathom_workspace {
  fathom_buffer scratch;
  fathom_buffer counters;
  fathom_buffer schedule;
} fathom_workspace;

FATHOM_C_API fathom_code fathom_plan_workspace_size(const fathom_plan* plan, fathom_workspace_size* size,
                                                    fathom_status* status);
/* Cuts one block into the three parts. `bytes` must hold all of them, each rounded up to the alignment, as the sizes of
 * fathom_plan_workspace_size are. A NULL block is right when they are all 0. */
FATHOM_C_API fathom_code fathom_workspace_carve(void* block, int64_t bytes, const fathom_workspace_size* size,
                                                fathom_workspace* workspace, fathom_status* status);
/* Zeroes the counters; once per workspace. */
FATHOM_C_API fathom_code fathom_workspace_init(const fathom_plan* plan, const fathom_workspace* workspace, void* stream,
                                               fathom_status* status);

/* Checks the `count` arguments, in the order of fathom_op_json, and runs. Nothing is written unless every check passes.
 * `stream` is a cudaStream_t, NULL on the CPU, where the op has run when the call returns. */
FATHOM_C_API fathom_code fathom_run(const fathom_plan* plan, const fathom_tensor* args, int32_t count,
                                    const fathom_workspace* workspace, void* stream, fathom_status* status);

/* ---- What there is ---------------------------------------------------------------------------------------------- */

FATHOM_C_API int32_t fathom_op_count(void);
/* Ops in the order of the layer's story; NULL outside [0, fathom_op_count()). */
FATHOM_C_API const char* fathom_op_name(int32_t index);

/* {"name", "stage", "summary", "formula", "source", "args": [{"name", "role", "optional", "shape", "dtypes", "doc"}],
 *  "fields": [{"name", "kind", "default", "least", "most", "words", "group", "doc"}]}; least and
 *  most of bounded fields, group of those that a text may also set by a common name. */
FATHOM_C_API fathom_code fathom_op_json(const char* op, char* buffer, int64_t capacity, int64_t* size,
                                        fathom_status* status);
/* [{"implementation", "reason"}], best first; an empty reason takes the problem. */
FATHOM_C_API fathom_code fathom_candidates_json(const char* op, const char* problem, const fathom_device* device,
                                                char* buffer, int64_t capacity, int64_t* size, fathom_status* status);

/* ---- Rotary tables and caches ----------------------------------------------------------------------------------- */

/* Rotary embedding of one layer. factor = 0: plain frequencies; otherwise YaRN. */
typedef struct fathom_rope {
  int32_t rope_dim;
  float theta;
  float factor;
  float beta_fast;
  float beta_slow;
  int64_t original_length; /* positions the model was first trained on */
} fathom_rope;

/* Fills f32 [count, rope_dim] with the rows of positions first .. first + count - 1: cosines, then sines. */
FATHOM_C_API fathom_code fathom_rope_table(const fathom_rope* rope, int64_t first, const fathom_tensor* table,
                                           fathom_status* status);

/* A row format with its sizes filled in: a page is page_size rows, then page_size footers. */
typedef struct fathom_cache_layout {
  int32_t dim;
  int32_t row_bytes;
  int32_t footer_bytes;
  int32_t page_alignment;
  int64_t page_bytes;
  int64_t page_stride; /* page_bytes rounded up to page_alignment; what the second extent of a cache tensor may be */
} fathom_cache_layout;

/* `format` is a word of docs/guide/caches.md: "kv_f32", "kv_bf16", "kv_e4m3_ue8m0", "index_e2m1_ue8m0", ... */
FATHOM_C_API fathom_code fathom_cache_layout_of(const char* format, int32_t dim, int64_t page_size,
                                                fathom_cache_layout* layout, fathom_status* status);
/* Writes `values` f32 or bf16 [n, dim] to, or reads them from, slots i64 [n] of `pages` u8 [num_pages, stride], through
 * the format. A slot is page * page_size + row; slots outside the cache are skipped, and read as zeros. */
FATHOM_C_API fathom_code fathom_cache_write(const char* format, int32_t dim, int64_t page_size, const fathom_tensor* pages,
                                            const fathom_tensor* slots, const fathom_tensor* values, fathom_status* status);
FATHOM_C_API fathom_code fathom_cache_read(const char* format, int32_t dim, int64_t page_size, const fathom_tensor* pages,
                                           const fathom_tensor* slots, const fathom_tensor* values, fathom_status* status);

#ifdef __cplusplus
}
#endif

#endif
