# scripts/count_classes.sh counts by the page's table, and fails where a class has fewer cases than the page says.
. "$(dirname -- "$0")/check.sh"

mkdir "$temporary/results"
case_of() { printf '    <testcase name="%s" status="run" result="completed" classname="%s"%s\n' "$1" "$2" "$3"; }
{
  case_of plain All/Suite ' />'
  case_of many All/Suite '>'
  printf '      <properties>\n        <property name="cases" value="40"/>\n      </properties>\n    </testcase>\n'
  case_of fails Suite '>'
  printf '      <failure message="a.cpp:3"/>\n      <properties>\n        <property name="cases" value="1000"/>\n      </properties>\n    </testcase>\n'
  printf '    <testcase name="skips" status="run" result="skipped" classname="Suite">\n      <skipped message="why"/>\n    </testcase>\n'
} >"$temporary/results/test_one.xml"
echo 'a log of the same tests: ok nothing' >"$temporary/results/test_one.log"
printf 'ok one\nok two\nnot ok three: why\n' >"$temporary/results/script.log"
printf 'skip four: why\n' >"$temporary/results/absent.log"

# table ROW...: a page with these rows.
table() {
  printf '| class | at least | suites | what |\n|---|--:|---|---|\n' >"$temporary/page.md"
  for row; do echo "$row" >>"$temporary/page.md"; done
  code=0
  FATHOM_CLASSES="$temporary/page.md" sh "$root/scripts/count_classes.sh" "$temporary/results" >"$temporary/output" 2>&1 || code=$?
}

table '| First | 41 | `Suite` | holds |' '| Second | 2 | `script` | holds |'
expect enough [ $code -eq 0 ]
expect tests_count_their_cases grep -qxF 'ok First: 41 cases' "$temporary/output"
expect scripts_count_their_lines grep -qxF 'ok Second: 2 cases' "$temporary/output"
expect the_sum grep -qxF '2 classes, 43 cases' "$temporary/output"
table '| Both | 43 | `Suite` `script` | holds |'
expect suites_add_up grep -qxF 'ok Both: 43 cases' "$temporary/output"
table '| First | 42 | `Suite` | holds |'
expect too_few [ $code -eq 1 ]
expect too_few_is_said grep -qxF 'not ok First: 41 cases, expected 42 or more' "$temporary/output"
table '| First | 1 | `Suite` `Gone` | holds |'
expect a_missing_suite [ $code -eq 1 ]
expect a_missing_suite_is_named grep -q 'no test of Gone passed' "$temporary/output"
table '| Absent | 5 | `absent` | holds |'
expect skipped_scripts_are_skips grep -qxF 'skip Absent: its tests were skipped' "$temporary/output"
table
expect a_page_without_classes [ $code -eq 1 ]
exit $((failures > 0))
