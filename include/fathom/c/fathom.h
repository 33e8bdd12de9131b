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
#define FATHOM_C_ABI_VERSION 3
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

/* `name` is "cpu", "cuda" or "cuda:N". num_threads = 0 takes every hardware thread this process may use; it counts on the
 * CPU only. */
FATHOM_C_API fathom_code fathom_device_create(const char* name, int32_t num_threads, fathom_device** device,
                                              fathom_status* status);
/* NULL is allowed, here and in fathom_plan_destroy. */
FATHOM_C_API void fathom_device_destroy(fathom_device* device);
/* {"kind", "index", "num_threads", "compute_capability", "num_multiprocessors", "shared_bytes_per_block", "l2_bytes",
 *  "memory_bytes"}; the last five are 0 on the CPU. */
FATHOM_C_API fathom_code fathom_device_json(const fathom_device* device, char* buffer, int64_t capacity, int64_t* size,
                                            fathom_status* status);
/* GPUs that fathom_device_create would take. */
FATHOM_C_API int32_t fathom_cuda_count(void);

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

/* ---- Memory on a device -----------------------------------------------------------------------------------------
 * For workspaces, weights and results of callers without a CUDA runtime of their own. Ops take any memory of the device. */

typedef struct fathom_memory fathom_memory;

/* `bytes` bytes on the device, aligned to FATHOM_WORKSPACE_ALIGNMENT; FATHOM_RESOURCE_EXHAUSTED if it has not that much. */
FATHOM_C_API fathom_code fathom_memory_create(const fathom_device* device, int64_t bytes, fathom_memory** memory,
                                              fathom_status* status);
FATHOM_C_API void fathom_memory_destroy(fathom_memory* memory);
/* Its first byte; NULL for NULL and for no bytes. */
FATHOM_C_API void* fathom_memory_data(const fathom_memory* memory);
/* Copies between host memory and the device's own, either way, ordered on the stream. On CUDA, call fathom_synchronize
 * before reading what was copied to the host. */
FATHOM_C_API fathom_code fathom_copy(const fathom_device* device, void* to, const void* from, int64_t bytes, void* stream,
                                     fathom_status* status);
/* Waits until everything given to the stream is done, and says what failed since. Does nothing on the CPU. */
FATHOM_C_API fathom_code fathom_synchronize(const fathom_device* device, void* stream, fathom_status* status);

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

/* ---- Models and checkpoints -------------------------------------------------------------------------------------
 * What follows fills in the arguments of the op "layer": `args` is an array of all of them (`count` of fathom_op_json),
 * zeroed by the caller, of which each call sets its own. A whole layer is then
 *   fathom_config_read, fathom_checkpoint_open, fathom_weights_load, fathom_weights_problem, fathom_plan_create("layer"),
 *   fathom_pool_create, fathom_weights_place, fathom_pool_place_caches; every step: fathom_pool_begin_step, fathom_run,
 *   fathom_pool_commit. The caller sets x, rope_table and out. */

typedef struct fathom_config fathom_config;
typedef struct fathom_checkpoint fathom_checkpoint;
typedef struct fathom_weights fathom_weights;

/* A model's config.json, native or Hugging Face form: from a file, from its text, or "v4-flash" or "v4-pro". */
FATHOM_C_API fathom_code fathom_config_read(const char* path, fathom_config** config, fathom_status* status);
FATHOM_C_API fathom_code fathom_config_parse(const char* json, fathom_config** config, fathom_status* status);
FATHOM_C_API fathom_code fathom_config_preset(const char* name, fathom_config** config, fathom_status* status);
FATHOM_C_API void fathom_config_destroy(fathom_config* config);
/* Attention layers, those of MTP last; 0 for NULL. */
FATHOM_C_API int32_t fathom_config_num_layers(const fathom_config* config);
/* The problem text of one layer in the formats that `numerics` ("exact" or "served") implies; weights are taken as bf16. */
FATHOM_C_API fathom_code fathom_config_layer_problem(const fathom_config* config, int32_t layer, const char* numerics,
                                                     char* buffer, int64_t capacity, int64_t* size, fathom_status* status);
/* The layer's rotation, for fathom_rope_table. */
FATHOM_C_API fathom_code fathom_config_layer_rope(const fathom_config* config, int32_t layer, fathom_rope* rope,
                                                  fathom_status* status);

/* A safetensors file or a folder of them. Headers are checked here, tensors read when asked for. */
FATHOM_C_API fathom_code fathom_checkpoint_open(const char* path, fathom_checkpoint** checkpoint, fathom_status* status);
FATHOM_C_API void fathom_checkpoint_destroy(fathom_checkpoint* checkpoint);
FATHOM_C_API int64_t fathom_checkpoint_num_tensors(const fathom_checkpoint* checkpoint);
/* Names in order; NULL outside [0, num_tensors). They live as long as the checkpoint. */
FATHOM_C_API const char* fathom_checkpoint_name(const fathom_checkpoint* checkpoint, int64_t index);
/* A tensor as a view into memory that lives as long as the checkpoint. */
FATHOM_C_API fathom_code fathom_checkpoint_tensor(const fathom_checkpoint* checkpoint, const char* name,
                                                  fathom_tensor* tensor, fathom_status* status);

/* Loads one layer's weights, or the part of them that rank `rank` of `world` has. They outlive checkpoint and config. */
FATHOM_C_API fathom_code fathom_weights_load(const fathom_checkpoint* checkpoint, const fathom_config* config, int32_t layer,
                                             int32_t rank, int32_t world, fathom_weights** weights, fathom_status* status);
FATHOM_C_API void fathom_weights_destroy(fathom_weights* weights);
/* As fathom_config_layer_problem, in the sizes and dtypes of the loaded weights. */
FATHOM_C_API fathom_code fathom_weights_problem(const fathom_weights* weights, const char* numerics, char* buffer,
                                                int64_t capacity, int64_t* size, fathom_status* status);
FATHOM_C_API fathom_code fathom_weights_place(const fathom_weights* weights, fathom_tensor* args, int32_t count,
                                              fathom_status* status);

/* ---- Page pools ------------------------------------------------------------------------------------------------- */

/* Pages, block tables and the bookkeeping of steps for layers of one kind. Not thread-safe. A call does all it says, or
 * returns an error and changes nothing. Meanings are those of fathom::PagePool (fathom/pool.h, docs/guide/caches.md). */
typedef struct fathom_pool fathom_pool;

typedef struct fathom_pool_options {
  int32_t num_layers; /* layers of this kind; they share page numbers, each has its own bytes */
  int32_t rollback_tokens;
  int64_t window_pages; /* pages of each cache; 0 for those the layer kind does not have */
  int64_t entries_pages;
  int64_t index_pages;
  int64_t state_pages;
  int64_t index_state_pages;
  int64_t sequence_tokens;  /* that block tables have room for from the first step on */
  uint64_t page_order_seed; /* 0: pages are handed out in order */
  void* stream;             /* CUDA: what the pool does on the device is ordered on it */
} fathom_pool_options;

/* Pages for `sequences` sequences of `tokens` tokens each; `problem` is a problem text of the op "layer". */
FATHOM_C_API fathom_code fathom_pool_options_for(const char* problem, int64_t sequences, int64_t tokens,
                                                 int32_t rollback_tokens, fathom_pool_options* options,
                                                 fathom_status* status);
FATHOM_C_API fathom_code fathom_pool_create(const char* problem, const fathom_pool_options* options,
                                            const fathom_device* device, fathom_pool** pool, fathom_status* status);
FATHOM_C_API void fathom_pool_destroy(fathom_pool* pool);

FATHOM_C_API fathom_code fathom_pool_add_sequence(fathom_pool* pool, int32_t* sequence, fathom_status* status);
FATHOM_C_API fathom_code fathom_pool_remove_sequence(fathom_pool* pool, int32_t sequence, fathom_status* status);
FATHOM_C_API fathom_code fathom_pool_length(const fathom_pool* pool, int32_t sequence, int64_t* tokens,
                                            fathom_status* status);
/* `cache` is 0 window, 1 entries, 2 index keys, 3 state, 4 index state; -1 for NULL and for others. */
FATHOM_C_API int64_t fathom_pool_num_free_pages(const fathom_pool* pool, int32_t cache);
/* Page ids of a sequence, through `buffer`, its `capacity` and `size` in numbers, as texts are written. */
FATHOM_C_API fathom_code fathom_pool_block_table(const fathom_pool* pool, int32_t sequence, int32_t cache, int32_t* buffer,
                                                 int64_t capacity, int64_t* size, fathom_status* status);

/* Makes room for `counts[i]` further tokens of `sequences[i]` and sets the step's arguments, valid until the next call. */
FATHOM_C_API fathom_code fathom_pool_begin_step(fathom_pool* pool, const int32_t* sequences, const int64_t* counts,
                                                int32_t num_sequences, fathom_tensor* args, int32_t count,
                                                fathom_status* status);
FATHOM_C_API fathom_code fathom_pool_commit(fathom_pool* pool, fathom_status* status);
/* Forgets a step that was begun and not committed. NULL is allowed. */
FATHOM_C_API void fathom_pool_abandon(fathom_pool* pool);
FATHOM_C_API fathom_code fathom_pool_place_caches(const fathom_pool* pool, int32_t layer, fathom_tensor* args,
                                                  int32_t count, fathom_status* status);

FATHOM_C_API fathom_code fathom_pool_roll_back(fathom_pool* pool, int32_t sequence, int64_t tokens, fathom_status* status);
/* A new sequence that shares the first `tokens` tokens. */
FATHOM_C_API fathom_code fathom_pool_fork(fathom_pool* pool, int32_t sequence, int64_t tokens, int32_t* forked,
                                          fathom_status* status);
/* All that later steps of a sequence need, as bytes: through `buffer`, `capacity` and `size` in bytes, as texts are. */
FATHOM_C_API fathom_code fathom_pool_snapshot(const fathom_pool* pool, int32_t sequence, void* buffer, int64_t capacity,
                                              int64_t* size, fathom_status* status);
FATHOM_C_API fathom_code fathom_pool_restore(fathom_pool* pool, const void* bytes, int64_t size, int32_t* sequence,
                                             fathom_status* status);

#ifdef __cplusplus
}
#endif

#endif
