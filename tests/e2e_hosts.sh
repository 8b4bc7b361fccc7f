#!/usr/bin/env bash
# A job over virtual hosts (tests/hosts.sh): the same tokens as on one, ranks where they belong, lost hosts by name.
# $CARAVAN: the program. Prints one line per case in the form tests/run counts.
set -u
. "$(dirname "$0")/check.sh"
export HOSTS_NAME=e2e$$
hosts=tests/hosts.sh
if ! why=$($hosts check 2>&1); then skip virtual_hosts "$why"; exit 0; fi
trap '$hosts down; rm -rf "$dir"' EXIT
$hosts up 4 --rate 1gbit --delay 1ms --for $$ || { bad hosts_up "see above"; exit 1; }
$hosts hostfile >"$dir/hosts"
args=$($hosts mpirun-args)

# generate HOSTS FLAGS...: from h1, into $dir/json; one thread a rank, since all share this machine.
generate() {
  local file=$1
  shift
  timeout 60 $hosts exec h1 "$CARAVAN" generate models/demo.gguf --prompt "A violin is" --max-tokens 24 --json --threads 1 \
    --hosts "$file" --mpirun-args "$args" "$@" >"$dir/json" 2>"$dir/err"
}
tokens() { sed -n 's/.*"tokens": \[\([0-9, ]*\)\], "text".*/\1/p' "$dir/json"; }
places() { grep -o '"host": "[^"]*"' "$dir/json" | cut -d'"' -f4 | xargs; }

# same NAME PLACES HOSTS FLAGS...
same() {
  local name=$1 want=$2
  shift 2
  generate "$@"
  if [ "$(tokens)" != "$expected" ]; then bad "$name" "tokens $(tokens), expected $expected: $(cat "$dir/err")"
  elif [ "$(places)" != "$want" ]; then bad "$name" "ranks are on: $(places); expected: $want"
  else ok "$name"; fi
}

"$CARAVAN" generate models/demo.gguf --prompt "A violin is" --max-tokens 24 --json >"$dir/json" 2>"$dir/err"
expected=$(tokens)
[ -n "$expected" ] && ok one_rank || bad one_rank "$(cat "$dir/err")"
same stages_of_four_hosts "h1 h2 h3 h4" "$dir/hosts" --stages 4
head -2 "$dir/hosts" >"$dir/two"
same shards_of_two_hosts "h1 h2" "$dir/two" --shards 2
$hosts hostfile 2 | head -2 >"$dir/two"
same stages_of_two_hosts_shards_inside "h1 h1 h2 h2" "$dir/two" --stages 2 --shards 2

# lost NAME COMMAND: a job of three hosts loses the third; what it says names the host.
lost() {
  timeout 60 $hosts exec h1 "$CARAVAN" perplexity models/demo.gguf --file models/heldout.txt --context 64 --prefill-chunk 1 \
    --stages 3 --threads 1 --hosts "$dir/hosts" --mpirun-args "$args" --deadline-s 4 >"$dir/out" 2>"$dir/err" &
  local job=$! started=0
  for _ in $(seq 100); do
    [ -n "$($hosts pids h3 'caravan node')" ] && { started=1; break; }
    sleep 0.1
  done
  sleep 2
  $hosts $2
  wait $job
  if [ $started = 1 ] && grep -q 'h3' "$dir/err"; then ok "$1"; else bad "$1" "$(cat "$dir/err")"; fi
}
lost partition_is_noticed "partition h3 on"
$hosts partition h3 off
lost power_loss_is_noticed "kill h3"
$hosts boot h3
same booted_again "h1 h2 h3 h4" "$dir/hosts" --stages 4
exit $failed
