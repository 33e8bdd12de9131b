# The seeded bugs of tests/mutants still apply; ./run mutants shows that each is caught.
. "$(dirname -- "$0")/check.sh"

applies() {
  if command -v patch >/dev/null; then
    patch -d "$root" -p1 --dry-run --force --silent -i "$1"
  else
    git -C "$root" apply --check "$1"
  fi
}
if ! command -v patch >/dev/null && ! command -v git >/dev/null; then
  echo "skip mutants: there is neither patch nor git here"
  exit 0
fi
for patch in "$root"/tests/mutants/*.patch; do
  name=$(basename "$patch" .patch)
  expect "$name" applies "$patch"
  expect "${name}_says_what_it_is" [ "$(sed -n '1s/^[A-Z].*\.$/sentence/p;2s/^Tests: test_.*/tests/p' "$patch" | tr '\n' ' ')" = "sentence tests " ]
done
exit $((failures > 0))
