#!/usr/bin/env bash
# Kills one process of a running job, and looks for what is left of it after at most 10 s.
# $CARAVAN: the program. Prints one line per case in the form tests/run counts.
set -u
. "$(dirname "$0")/check.sh"
# A folder of its own for the job's socket: what is left in it shows, too.
export TMPDIR=$dir
model=tests/golden/llama-gqa.f16.gguf

# The processes under a process, itself first.
tree() {
  echo "$1"
  local child
  for child in $(cat /proc/"$1"/task/*/children 2>/dev/null); do tree "$child"; done
}

# Those of the given processes that still run (a zombie does not).
living() {
  local p state
  for p in "$@"; do
    state=$(sed 's/.*) //; s/ .*//' /proc/"$p"/stat 2>/dev/null)
    case $state in ''|Z|X) ;; *) echo "$p";; esac
  done
}

# Starts a job of $n_ranks ranks that would run for minutes; sets $caravan, $all, $mpirun, $ranks.
n_ranks=4 how="--stages 2 --shards 2 --reference"
start() {
  "$CARAVAN" perplexity $model --file models/heldout.txt --context 32 --prefill-chunk 1 \
    $how >"$dir/out" 2>"$dir/err" &
  caravan=$!
  local i
  for i in $(seq 300); do
    all=$(tree $caravan)
    mpirun= ranks=
    local p
    for p in $all; do
      case $(tr '\0' ' ' </proc/"$p"/cmdline 2>/dev/null) in
        *mpirun*--socket*) mpirun=$p;;
        *"caravan node --socket"*) ranks="$ranks $p";;
      esac
    done
    set -- $ranks
    # The folder of the socket is gone once the job is connected.
    if [ $# -eq $n_ranks ] && [ -z "$(ls -d "$dir"/caravan-* 2>/dev/null)" ]; then
      sleep 1
      return 0
    fi
    sleep 0.1
  done
  return 1
}

# settle NAME PATTERN RC: everything must end within 10 s; where the coordinator lives it
# ends with RC and says one line that holds PATTERN.
settle() {
  local name=$1 pattern=$2 want=$3 i left rc lines
  for i in $(seq 100); do
    left=$(living $all)
    [ -z "$left" ] && break
    sleep 0.1
  done
  if [ -n "$left" ]; then
    kill -9 $left 2>/dev/null
    bad "$name" "processes left after 10 s: $left"
    return
  fi
  wait $caravan 2>/dev/null; rc=$?
  lines=$(wc -l <"$dir/err")
  if [ $rc -ne "$want" ]; then
    bad "$name" "exit code $rc, expected $want: $(cat "$dir/err")"
  elif [ -n "$pattern" ] && { [ "$lines" -ne 1 ] || ! grep -Eq "$pattern" "$dir/err"; }; then
    bad "$name" "said: $(cat "$dir/err")"
  elif [ -n "$(ls -d "$dir"/caravan-* 2>/dev/null)" ]; then
    bad "$name" "the socket's folder is left"
  else
    ok "$name"
  fi
}

# case NAME WHOM SIGNAL PATTERN RC
run() {
  if ! start; then
    bad "$1" "the job did not start: $(cat "$dir/err")"
    kill -9 $(living $all) 2>/dev/null
    return
  fi
  set -- "$@" $ranks
  local whom
  case $2 in
    caravan) whom=$caravan;;
    mpirun) whom=$mpirun;;
    *) local at=$((6 + $2)); whom=${!at};;
  esac
  kill -"$3" "$whom"
  settle "$1" "$4" "$5"
}

run kill_first_rank 0 KILL '^caravan: rank 0 \(host .*, layers 0-1\).* signal 9' 1
run kill_last_rank 3 KILL '^caravan: rank [0-9] \(host .*, layers .*\).* signal 9' 1
run abort_rank 1 ABRT '^caravan: rank [0-9] \(host .*, layers .*\).* signal 6' 1
run kill_mpirun mpirun KILL '^caravan: the launcher mpirun was ended by signal 9' 1
run kill_coordinator caravan KILL '' 137
run interrupt_coordinator caravan INT '^caravan: interrupted' 130
run terminate_coordinator caravan TERM '^caravan: interrupted' 143
# Shards of a device of this host wait for each other inside a step, on a thread of the device.
n_ranks=2 how="--shards 2 --device Portable --deadline-s 2"
run kill_shard_on_board 1 KILL '^caravan: rank 1 \(host .*, layers .*\).* signal 9' 1
run kill_first_shard_on_board 0 KILL '^caravan: rank 0 \(host .*, layers .*\).* signal 9' 1
run stop_shard_on_board 1 STOP '^caravan: rank 0 \(host .*\): waited .* s for rank 1 \(host .*, layers .*\)' 1
exit $failed
