# scripts/run_tests.sh counts what happened, whatever the binaries do: planted ones pass, fail, skip, crash, run nothing.
. "$(dirname -- "$0")/check.sh"

# plant NAME CODE CASES: a test binary that writes the XML GoogleTest would, prints a line and ends with CODE.
plant() {
  cat >"$temporary/bin/$1" <<BINARY
#!/bin/sh
xml=\${1#--gtest_output=xml:}
echo '[ RUN      ] Suite.fails'; echo 'output of $1'; echo '[  FAILED  ] Suite.fails (1 ms)'
[ -z '$3' ] || { echo '<testsuites>'; printf '%b' '$3'; echo '</testsuites>'; } >"\$xml"
$2
BINARY
  chmod +x "$temporary/bin/$1"
}
case_of() {
  printf '%s' "    <testcase name=\"$1\" file=\"a.cpp\" status=\"run\" result=\"$2\" time=\"0.\" classname=\"Suite\" $3\\n"
}
run_planted() {
  code_of sh "$root/scripts/run_tests.sh" "$temporary/bin" "$temporary/results" 2 "$@"
  counts=$(cat "$temporary/results/counts")
}
fresh() { rm -rf "$temporary/bin" && mkdir "$temporary/bin"; }

pass=$(case_of passes completed '/>')
fail=$(case_of fails completed '>\n      <failure message="a.cpp:3" type=""></failure>\n    </testcase>')
skip=$(case_of skips skipped '>\n      <skipped message="a.cpp:7&#x0A;no &quot;AMX&quot; here"></skipped>\n    </testcase>')
off='    <testcase name="off" file="a.cpp" status="notrun" result="suppressed" time="0." classname="Suite" />\n'

fresh
plant test_good 'exit 0' "$pass$pass$skip$off"
run_planted -
expect passes_and_skips [ "$counts" = "2 0 1" ]
expect skip_has_its_reason grep -qF 'skipped Suite.skips: no "AMX" here' "$temporary/output"

plant test_bad 'exit 1' "$pass$fail$fail"
run_planted -
expect failures_are_counted [ "$counts" = "3 2 1" ]
expect failures_are_shown grep -q 'output of test_bad' "$temporary/output"

fresh && plant test_crash 'kill -SEGV $$' ''
run_planted -
expect a_crash_is_one_failure [ "$counts" = "0 1 0" ]
expect a_crash_shows_its_end grep -q 'output of test_crash' "$temporary/output"

fresh && plant test_late_crash 'kill -ABRT $$' "$pass"
run_planted -
expect a_crash_after_the_tests_is_a_failure [ "$counts" = "1 1 0" ]

fresh && plant test_empty 'exit 0' ' '
run_planted -
expect no_tests_is_a_failure [ "$counts" = "0 1 0" ]

fresh
run_planted -
expect nothing_at_all_counts_nothing [ "$counts" = "0 0 0" ]

echo 'echo "ok one"; echo "skip two: why not"; echo "not ok three: broken"' >"$temporary/mixed.sh"
echo 'exit 0' >"$temporary/silent.sh"
echo 'echo "ok one"; exit 5' >"$temporary/dies.sh"
run_planted "$temporary/mixed.sh"
expect script_lines_are_counted [ "$counts" = "1 1 1" ]
expect script_skips_are_shown grep -q '^skipped two: why not' "$temporary/output"
run_planted "$temporary/silent.sh"
expect a_silent_script_is_a_failure [ "$counts" = "0 1 0" ]
run_planted "$temporary/dies.sh"
expect a_dying_script_is_a_failure [ "$counts" = "1 1 0" ]
exit $((failures > 0))
