#!/usr/bin/env bash
# Shards of one stage on what look like several hosts: the same tokens, and who sends how much.
# $CARAVAN: the program. Prints one line per case in the form tests/run counts.
set -u
. "$(dirname "$0")/check.sh"
if ! tests/on_hosts --check 2>/dev/null; then
  skip shards_on_hosts "this needs a host name of one's own (root, or namespaces of users)"
  exit 0
fi
model=tests/golden/llama-shards-q4.q4_0.gguf
prompt=$(head -1 tests/golden/llama-shards-q4.tokens | cut -d, -f1-40)

# launch HOSTS COMMAND...: a rank for each name in the list.
launch() {
  local hosts=$1
  shift
  mpirun --oversubscribe --bind-to none --mca mpi_yield_when_idle 1 -n "$(echo "$hosts" | tr ',' '\n' | wc -l)" \
    tests/on_hosts "$hosts" "$CARAVAN" "$@"
}

# tokens HOSTS FLAGS...: generates; $dir/tokens has the tokens, $dir/json all that was said.
tokens() {
  local hosts=$1
  shift
  timeout 120 bash -c "$(declare -f launch); launch \"\$@\"" - "$hosts" generate $model --tokens "$prompt" --max-tokens 24 \
    --ignore-eos --json "$@" >"$dir/json" 2>"$dir/err" </dev/null
  sed -n 's/.*"tokens": \[\([0-9, ]*\)\], "text".*/\1/p' "$dir/json" | tr -d ' ' >"$dir/tokens"
}

# sent: the bytes that each rank has sent, one a line.
sent() { grep -o '"bytes_sent": [0-9]*' "$dir/json" | grep -o '[0-9]*$'; }

tokens one --reference
mv "$dir/tokens" "$dir/expected"
[ "$(tr ',' '\n' <"$dir/expected" | wc -l)" -eq 24 ] && ok one_shard || bad one_shard "$(cat "$dir/err")"

# same NAME HOSTS FLAGS...
same() {
  local name=$1
  shift
  tokens "$@"
  if [ -s "$dir/tokens" ] && cmp -s "$dir/expected" "$dir/tokens"; then ok "$name"
  else bad "$name" "$(tail -3 "$dir/err") | $(cat "$dir/tokens")"; fi
}

same 1x3_on_two_hosts a,a,b --shards 3 --prefill-chunk 7
same 1x4_on_two_hosts a,a,b,b --shards 4
# The second shard of a host speaks to the first, not to the network: it sends no sums.
set -- $(sent)
[ $# = 4 ] && [ "$2" -lt $(($1 / 8)) ] && [ "$4" -lt $(($3 / 8)) ] && ok board_inside_hosts ||
  bad board_inside_hosts "bytes sent: $*"
same 1x4_hosts_in_turn a,b,a,b --shards 4
same 2x2_across_hosts a,b,a,b --stages 2 --shards 2
same 1x4_by_messages a,a,b,b --shards 4 --reference

exit $failed
