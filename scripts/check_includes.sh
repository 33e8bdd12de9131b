#!/bin/sh
# Who may include whom (ARCHITECTURE.md, "Layers").   check_includes.sh [ROOT]
#   core <- config <- cache <- linear <- {project | compress | index | attend | output} <- layer <- {checkpoint, pool} <- c_api
# Prints one line for each breach and ends with "ok include_rule" or "not ok include_rule: ...".
set -eu
cd "${1:-$(dirname -- "$0")/..}"

find include src -type f \( -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu' \) | sort |
  xargs grep -H '^[[:space:]]*#[[:space:]]*include' |
  awk '
    function list(words, table,   n, i, part) { n = split(words, part, " "); for (i = 1; i <= n; ++i) table[part[i]] = 1 }
    function allow(module, words,   n, i, part) { n = split(words, part, " "); for (i = 1; i <= n; ++i) may[module, part[i]] = 1; known[module] = 1 }
    function breach(why) { print file ": " included ": " why; ++breaches }
    # The module a path under src/ or include/fathom/ belongs to.
    function module_of(path,   part) {
      if (path ~ /^cache\/page_/ || path == "pool.h") return "pool"  # it stands on layer.h, above the caches it fills
      split(path, part, "/"); sub(/\.h$/, "", part[1]); return part[1]
    }
    BEGIN {
      stages = "project compress index attend output"
      below = "core config cache linear"
      allow("core", "core"); allow("config", "core config"); allow("cache", "core config cache")
      allow("linear", below)
      n = split(stages, stage, " "); for (i = 1; i <= n; ++i) allow(stage[i], below " " stage[i])
      allow("layer", below " " stages " layer")
      allow("checkpoint", below " " stages " layer checkpoint")
      allow("pool", below " " stages " layer pool")
      allow("c_api", below " " stages " layer checkpoint pool c_api c")
      allow("c", "c"); allow("fathom", below " " stages " layer checkpoint pool")
      allow("reference", "core config cache reference"); allow("simd", "core cache simd"); allow("device", "core cache device")
    }
    {
      file = $0; sub(/:.*/, "", file)
      included = $0; sub(/^[^#]*#[ \t]*include[ \t]*/, "", included); sub(/[ \t]*(\/\/.*)?$/, "", included)
      public = file ~ /^include\//
      path = file; sub(/^(include\/fathom|src)\//, "", path)
      module = module_of(path)
      if (!(module in known)) { breach("the folder " module " is not in the include rule"); next }
    }
    included ~ /^</ {
      if (included ~ /^<(fmt|CLI)\// ) breach("fmt and CLI11 belong to cli, harness and tests")
      if (included ~ /^<nlohmann\// && module != "config" && module != "checkpoint") breach("only config and checkpoint read JSON")
      if (included ~ /^<hwy\// && module != "simd" && file !~ /_cpu\.cpp$/) breach("only src/simd and *_cpu.cpp use Highway")
      if (included ~ /^<(oneapi\/)?tbb/ && file != "src/core/device.cpp") breach("threads go through core/parallel.h")
      if (included ~ /^<cuda/ && module != "device" && file !~ /\.cuh?$/) breach("CUDA headers belong to *.cu, *.cuh and src/device")
      if (included ~ /^<(torch|ATen|c10)\//) breach("Torch belongs to python/")
      if (public && included ~ /\//) breach("public headers include fathom and the standard library only")
      next
    }
    {
      target = included; gsub(/"/, "", target)
      from_public = target ~ /^fathom\//
      if (public && !from_public) { breach("public headers include only public headers"); next }
      if (target !~ /\//) { breach("write the folder too, relative to src/"); next }
      sub(/^fathom\//, "", target)
      to = module_of(target)
      if (to == "simd" && !from_public) {
        if (module != "simd" && file !~ /_cpu\.cpp$/ && !(target == "simd/instruction_sets.h" && file ~ /_list\.cpp$/)) breach("only *_cpu.cpp may include simd, lists its instruction_sets.h")
        next
      }
      if (to == "device" && !from_public) {
        if (module != "device" && file !~ /\.cuh?$/) breach("only *.cu and *.cuh may include device")
        next
      }
      if (to == "reference") {
        if (module != "reference" && file !~ /_reference\.cpp$/) breach("only definitions may include reference")
        next
      }
      if (file ~ /_reference\.cpp$/ || module == "reference") {
        # No kernel helper can hide a bug in a definition that does not see it.
        if (!from_public && target !~ ("^" module "/[a-z_]*_impl\\.h$")) breach("definitions include only public headers and reference/")
      }
      if (!((module, to) in may)) breach(module " may not include " to)
    }
    END {
      if (NR == 0) { print "not ok include_rule: no includes found"; exit 1 }
      if (breaches) { print "not ok include_rule: " breaches " breaches"; exit 1 }
      print "ok include_rule"
    }'
