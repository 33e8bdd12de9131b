# Sourced by ./run and its scripts: saying, logging and stopping.

log=build/run.log

# stop CODE TEXT: one sentence on stderr, and the exit code.
stop() {
  echo "run: $2" >&2
  exit "$1"
}

# open_log WHAT: starts the log of this call over.
open_log() {
  mkdir -p build
  echo "== ./run $1, $(date)" >"$log"
}

# say TEXT: to the terminal and the log.
say() {
  echo "$1"
  [ ! -d build ] || echo "$1" >>"$log"
}

# logged COMMAND ARGS...: prints the command, runs it, keeps its output; the status is the command's own.
logged() {
  say "+ $*"
  logged_status=build/.status
  { "$@" 2>&1 && echo 0 >"$logged_status" || echo $? >"$logged_status"; } | tee -a "$log"
  return "$(cat "$logged_status")"
}
