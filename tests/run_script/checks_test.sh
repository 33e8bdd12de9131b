# The checks of the tree find planted breaches: one file each, in a small tree of their own.
. "$(dirname -- "$0")/check.sh"

# breach_of CHECK FILE LINE: whether the check fails on a tree whose one sinner is FILE with LINE, and passes without it.
breach_of() {
  rm -rf "$temporary/tree"
  mkdir -p "$temporary/tree/src/core" "$temporary/tree/include/fathom/core" "$temporary/tree/harness" "$temporary/tree/cli" \
    "$temporary/tree/tests/core" "$temporary/tree/$(dirname "$2")"
  echo '`attend` `simd` `linear` `core` `config` `index` `device` `reference`' >"$temporary/tree/ARCHITECTURE.md"
  printf '// A file.\n#include <string>\n' >"$temporary/tree/src/core/good.h"
  sh "$root/scripts/$1.sh" "$temporary/tree" >/dev/null || return 1
  printf '// A file.\n%b\n' "$3" >"$temporary/tree/$2"
  ! sh "$root/scripts/$1.sh" "$temporary/tree" >"$temporary/output" && grep -q "$(basename "$2")" "$temporary/output"
}
# allowed FILE LINE: the include rule lets it pass.
allowed() {
  breach_of check_includes src/core/bad.h '#include "layer/x.h"' || return 1
  rm "$temporary/tree/src/core/bad.h"
  mkdir -p "$temporary/tree/$(dirname "$1")"
  printf '%b\n' "$2" >"$temporary/tree/$1"
  sh "$root/scripts/check_includes.sh" "$temporary/tree"
}

expect stage_includes_stage breach_of check_includes src/attend/a.cpp '#include "index/index_impl.h"'
expect stage_includes_public_stage breach_of check_includes src/attend/a.cpp '#include "fathom/index.h"'
expect core_includes_config breach_of check_includes src/core/a.cpp '#include "fathom/config.h"'
expect stage_includes_layer breach_of check_includes src/attend/a.h '#  include "fathom/layer.h"'
expect simd_outside_cpu breach_of check_includes src/attend/attend.cpp '#include "simd/words.h"'
expect definition_uses_helper breach_of check_includes src/attend/a_reference.cpp '#include "cache/row_codec.h"'
expect kernel_uses_definition breach_of check_includes src/attend/a_cpu.cpp '#include "reference/definition.h"'
expect fmt_in_library breach_of check_includes src/core/a.cpp '#include <fmt/format.h>'
expect json_in_stage breach_of check_includes src/attend/a.cpp '#include <nlohmann/json.hpp>'
expect tbb_in_kernel breach_of check_includes src/attend/a_cpu.cpp '#include <tbb/parallel_for.h>'
expect cuda_in_cpp breach_of check_includes src/attend/a.cpp '#include <cuda_runtime.h>'
expect public_header_sees_src breach_of check_includes include/fathom/core/a.h '#include "core/plan.h"'
expect library_sees_harness breach_of check_includes src/core/a.cpp '#include "harness/op_case.h"'
expect unknown_folder breach_of check_includes src/mystery/a.cpp '#include <string>'
expect own_impl_is_allowed allowed src/attend/a_reference.cpp '#include "attend/attend_impl.h"\n#include "fathom/attend.h"'
expect simd_in_cpu_is_allowed allowed src/attend/a_cpu.cpp '#include "simd/words.h"\n#include <hwy/highway.h>'
expect layer_sees_stages allowed src/layer/layer.cpp '#include "fathom/attend.h"\n#include "fathom/index.h"'

expect missing_test breach_of check_tree src/core/plan.cpp ''
expect long_file breach_of check_tree src/core/long.h "$(yes '//' | head -n 500)"
expect vague_name breach_of check_tree src/core/string_utils.h ''
expect printing breach_of check_tree src/core/loud.h 'void f() { printf("x"); }'
expect reading_environment breach_of check_tree src/core/nosy.h 'auto x = std::getenv("HOME");'
expect aborting breach_of check_tree src/core/fatal.h 'void f() { std::abort(); }'
exit $((failures > 0))
