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
    --ignore-eos --json --probe off "$@" >"$dir/json" 2>"$dir/err" </dev/null
  sed -n 's/.*"tokens": \[\([0-9, ]*\)\], "text".*/\1/p' "$dir/json" | tr -d ' ' >"$dir/tokens"
}

# sent: the bytes that each rank has sent, one a line (those of measuring links left out: --probe off).
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


# Fewer bytes for other bits: f16 half as many between hosts, int8 about a quarter, and the same answer or one near it.
sums_of() { set -- $(sent); echo $(($1 + $2)); }
tokens a,b --shards 2
full=$(sums_of)
for payload in f16 int8; do
  tokens a,b --shards 2 --numerics fast --payload $payload
  n=$(sums_of)
  [ -s "$dir/tokens" ] && [ $((n * 10)) -lt $((full * 8)) ] && grep -q "\"numerics\": \"fast ($payload between hosts)\"" "$dir/json" &&
    ok payload_$payload || bad payload_$payload "$full bytes before, $n now: $(tail -3 "$dir/err")"
done
same fast_alone_keeps_the_bits a,b --shards 2 --numerics fast

# perplexity HOSTS FLAGS...: of the demo model; a number with 4 digits after the point, without the point.
perplexity() {
  local hosts=$1
  shift
  launch "$hosts" perplexity models/demo.gguf --file "$dir/text" --context 256 "$@" 2>"$dir/err" </dev/null |
    sed -n 's/^perplexity \([0-9]*\)\.\([0-9]*\) .*/\1\2/p'
}
head -c 6000 models/heldout.txt >"$dir/text"
before=$(perplexity a)
for payload in f16 int8; do
  now=$(perplexity a,b --shards 2 --numerics fast --payload $payload)
  [ -n "$before" ] && [ -n "$now" ] && [ $((now * 100)) -lt $((before * 101)) ] && [ $((now * 101)) -gt $((before * 100)) ] &&
    ok perplexity_$payload || bad perplexity_$payload "$before before, $now now: $(tail -3 "$dir/err")"
done

refused() {
  local name=$1 text=$2
  shift 2
  "$CARAVAN" generate $model --prompt x "$@" >"$dir/out" 2>"$dir/err" && bad "$name" "was taken" && return
  grep -qF "$text" "$dir/err" && ok "$name" || bad "$name" "$(cat "$dir/err")"
}
refused payload_needs_fast 'payload = "f16" rounds sums between hosts: it needs numerics = "fast"' --payload f16
refused unknown_payload 'payload = "f8": expected f32, f16 or int8' --numerics fast --payload f8
refused unknown_numerics 'numerics = "quick": expected reproducible or fast' --numerics quick
exit $failed
