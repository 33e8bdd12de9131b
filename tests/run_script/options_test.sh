# ./run: verbs, options, exit codes, and what it says on a machine that lacks something.
. "$(dirname -- "$0")/check.sh"

code_of "$root/run"
expect no_verb_lists_them [ $code -eq 0 ]
expect usage_names_demo grep -q '  demo ' "$temporary/output"
code_of "$root/run" frobnicate
expect unknown_verb [ $code -eq 2 ]
expect unknown_verb_is_named grep -q '"frobnicate"' "$temporary/output"
code_of "$root/run" --frobnicate test
expect unknown_option [ $code -eq 2 ]
for jobs in 0 two -1 ''; do
  code_of "$root/run" --jobs "$jobs" doctor
  expect "jobs_\"$jobs\"" [ $code -eq 2 ]
  code_of "$root/run" "--jobs=$jobs" doctor
  expect "jobs=\"$jobs\"" [ $code -eq 2 ]
done
code_of "$root/run" --jobs 3 doctor
expect jobs_3 [ $code -eq 0 ]
code_of "$root/run" demo --deep
expect deep_belongs_to_test [ $code -eq 2 ]
code_of "$root/run" demo test
expect one_verb_only [ $code -eq 2 ]
if [ -e /dev/nvidia0 ]; then
  echo "skip gpu_verbs_without_a_gpu: this machine has one"
else
  for verb in gpu-test gpu-bench; do
    code_of "$root/run" $verb
    expect ${verb}_code [ $code -eq 3 ]
    expect ${verb}_one_sentence [ "$(wc -l <"$temporary/output")" -eq 1 ]
  done
fi
code_of "$root/run" --no-build test
expect no_build_belongs_to_gpu_test [ $code -eq 2 ]
code_of sh "$root/scripts/check_mutants.sh" 1 no_such_bug
expect an_unknown_mutant_is_named grep -q 'not ok no_such_bug: there is no tests/mutants/no_such_bug.patch' "$temporary/output"
code_of "$root/run" doctor
expect doctor [ $code -eq 0 ]
expect doctor_explains_cuda grep -qE 'every build is CPU only|CUDA kernels for sm_80' "$temporary/output"

# A machine with a shell and nothing to build with: a PATH of links to a few tools.
mkdir "$temporary/bare" "$temporary/copy"
for tool in sh cat dirname date mkdir tee awk sed grep rm id getconf head env; do
  ln -s "$(command -v $tool)" "$temporary/bare/$tool"
done
cp -r "$root/run" "$root/scripts" "$temporary/copy"
bare() { (cd "$temporary/copy" && PATH="$temporary/bare" CXX=g++ ./run "$@"); }
code_of bare --no-install deps
expect bare_machine_without_apt_code [ $code -eq 3 ]
expect bare_machine_names_packages grep -q 'g++ cmake ninja-build libgtest-dev' "$temporary/output"
printf '#!/bin/sh\necho "apt-get $*" >>"%s/calls"\nexit 100\n' "$temporary" >"$temporary/bare/apt-get"
chmod +x "$temporary/bare/apt-get"
code_of bare --no-install test
expect no_install_code [ $code -eq 3 ]
expect no_install_prints_the_line grep -q 'apt-get update && apt-get install -y' "$temporary/output"
expect no_install_calls_nothing [ ! -f "$temporary/calls" ]
code_of bare --offline demo
expect offline_calls_nothing [ ! -f "$temporary/calls" ]
printf '#!/bin/sh\necho 0\n' >"$temporary/id" && chmod +x "$temporary/id" && rm "$temporary/bare/id" && mv "$temporary/id" "$temporary/bare/id"
code_of bare deps
expect failing_update_code [ $code -eq 3 ]
expect update_comes_first grep -qx 'apt-get update' "$temporary/calls"
expect failing_update_prints_the_line grep -q 'please type' "$temporary/output"
exit $((failures > 0))
