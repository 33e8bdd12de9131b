# The examples run, and say what they should.
. "$(dirname -- "$0")/check.sh"
examples=${FATHOM_BUILD:-$root/build/cpu}/examples

code_of "$examples/attend_in_c"
expect attend_in_c [ $code -eq 0 ]
expect attend_in_c_is_right grep -q 'right$' "$temporary/output"
code_of "$examples/prefill" "$root/tests/golden/tiny"
expect prefill [ $code -eq 0 ]
expect prefill_runs_all_layers [ "$(grep -c 'relative L2 error' "$temporary/output")" -eq 3 ]
code_of "$examples/prefill" "$temporary"
expect prefill_names_the_missing_file [ $code -eq 1 ]
code_of "$examples/decode_step" "$root/tests/golden/tiny"
expect decode_step [ $code -eq 0 ]
expect decode_step_reaches_its_end grep -q 'lengths 44 and 12' "$temporary/output"
exit $((failures > 0))
