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

# generate HOSTS FLAGS...: from h1, into $dir/json; one thread a rank, since all share this machine. Unmeasured, since a
# measured plan may take the hosts in another order than the launcher does.
generate() {
  local file=$1
  shift
  timeout 60 $hosts exec h1 "$CARAVAN" generate models/demo.gguf --prompt "A violin is" --max-tokens 24 --json --threads 1 --probe off \
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

printf 'h1 slots=2\nh2 slots=1\nh3 slots=1\n' >"$dir/uneven"
same uneven_slots "h1 h1 h2 h3" "$dir/uneven" --stages 2 --shards 2
same own_mapping_wins "h1 h2 h3 h1" "$dir/uneven" --stages 4 --mpirun-args "$args --map-by node"
generate "$dir/uneven" --stages 5
[ $? = 2 ] && grep -q "5 ranks, but the hosts have 4 slots" "$dir/err" && ok too_few_slots || bad too_few_slots "$(cat "$dir/err")"

# The PBS scripts, with a file of hosts as PBS writes it; mpirun is told what ssh would find by itself.
printf '#!/bin/sh\nexec "%s" "$@" --threads 1 --max-tokens 24 --mpirun-args "%s"\n' "$CARAVAN" "$args" >"$dir/caravan"
chmod +x "$dir/caravan"
printf 'h2\nh2\nh3\nh3\n' >"$dir/nodes"
pbs() { $hosts exec h2 env CARAVAN="$dir/caravan" MODEL=models/demo.gguf PBS_NODEFILE="$dir/nodes" PBS_O_WORKDIR="$PWD" "$@"; }
pbs PROMPT="A violin is" timeout 60 configs/pbs.sh >"$dir/json" 2>"$dir/err"
[ "$(tokens)" = "$expected" ] && [ "$(places)" = "h2 h2 h3 h3" ] && ok pbs_script || bad pbs_script "$(cat "$dir/err" "$dir/json")"
sed -i 's/ --max-tokens 24//' "$dir/caravan"
pbs timeout 60 configs/pbs-serve.sh >"$dir/served" 2>&1 &
job=$!
for _ in $(seq 150); do $hosts exec h2 curl -fs -m 2 http://127.0.0.1:8080/ready >/dev/null 2>&1 && break; sleep 0.2; done
$hosts exec h2 curl -fsS -m 30 -H 'Content-Type: application/json' -d '{"prompt": "A violin is", "max_tokens": 5}' \
  http://127.0.0.1:8080/v1/completions >"$dir/out" 2>"$dir/err"
grep -q '"text"' "$dir/out" && ok pbs_serve_script || bad pbs_serve_script "$(cat "$dir/err" "$dir/served")"
kill -TERM $($hosts pids h2 configs/pbs-serve.sh)
wait $job

# lost NAME COMMAND: a job of three hosts loses the third; what it says names the host.
lost() {
  timeout 60 $hosts exec h1 "$CARAVAN" perplexity models/demo.gguf --file models/heldout.txt --context 64 --prefill-chunk 1 \
    --stages 3 --threads 1 --hosts "$dir/hosts" --mpirun-args "$args" --deadline-s 4 >"$dir/out" 2>"$dir/err" &
  local job=$! started=0
  for _ in $(seq 100); do
    [ -n "$($hosts pids h3 ' node --socket')" ] && { started=1; break; }
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

# A long way: its bandwidth is what it lets through once a connection is up to speed, not what the first message took.
$hosts down
$hosts up 2 --rate 100mbit --delay 5ms --for $$ || bad long_way_up "see above"
$hosts hostfile >"$dir/hosts"
timeout 100 $hosts exec h1 "$CARAVAN" probe --reference --formats F32 --hosts "$dir/hosts" \
  --mpirun-args "$($hosts mpirun-args)" >"$dir/out" 2>"$dir/err"
if awk '/^h[12] to h[12]:/ { n++; bad += $4 < 4000 || $4 > 20000 || $6 < 0.05 || $6 > 0.12 } END { exit n != 2 || bad }' "$dir/out"
then ok bandwidth_of_a_long_way; else bad bandwidth_of_a_long_way "$(cat "$dir/err" "$dir/out")"; fi

# On given processors; a wrong list starts nothing.
$hosts down
first=$(taskset -pc $$ | sed 's/.*: //; s/[-,].*//')
$hosts up 2 --on "$first" --cpu 50 --for $$
$hosts hostfile >"$dir/hosts"
seen=$(for h in h1 h2; do $hosts exec $h sh -c 'taskset -pc $$' | sed 's/.*: //'; done | xargs)
[ "$seen" = "$first $first" ] && ok on_given_processors || bad on_given_processors "they run on $seen, not on $first"
# Under a quota both learn what messages take of it: who measures and who answers.
timeout 100 $hosts exec h1 "$CARAVAN" probe --reference --formats F32 --hosts "$dir/hosts" --probe again --json \
  --mpirun-args "$($hosts mpirun-args)" >"$dir/out" 2>"$dir/err"
[ "$(grep -oE '"quota_(message_s|link_per_s)": [0-9.e+-]+' "$dir/out" | awk '$2 > 0' | wc -l)" = 4 ] &&
  ok messages_of_a_quota || bad messages_of_a_quota "$(cat "$dir/err" "$dir/out")"
$hosts down
if ! $hosts up 1 --on x 2>"$dir/err" && grep -q -- "--on 'x': a list" "$dir/err" && [ -z "$($hosts hostfile 2>/dev/null)" ]
then ok on_what_is_no_list; else bad on_what_is_no_list "$(cat "$dir/err")"; fi
exit $failed
