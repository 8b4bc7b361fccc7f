#!/usr/bin/env bash
# The server from outside, by curl: every endpoint, refusals, several clients at once with the bytes that each would
# get alone, other grids, a rank that dies, the end. $CARAVAN: the program.
set -u
. "$(dirname "$0")/check.sh"
. tests/server.sh

# ask STATUS PATH [BODY] [curl arguments]: the answer is in $dir/out; fails with another status.
ask() {
  local want=$1 path=$2 body=${3-} status
  shift; shift; [ $# -gt 0 ] && shift
  if [ -n "$body" ]; then set -- -H 'Content-Type: application/json' --data-binary "$body" "$@"; fi
  status=$(curl -sk -m 120 -o "$dir/out" -w '%{http_code}' "$@" "$url$path")
  [ "$status" = "$want" ] || { echo "status $status, expected $want: $(head -c 300 "$dir/out")" >"$dir/why"; return 1; }
}
# says NAME STATUS PATTERN PATH [BODY] [curl arguments]
says() {
  local name=$1 want=$2 pattern=$3
  shift 3
  if ! ask "$want" "$@"; then bad "$name" "$(cat "$dir/why")"
  elif ! grep -Eq -e "$pattern" "$dir/out"; then bad "$name" "$(head -c 400 "$dir/out")"
  else ok "$name"; fi
}
# The text of a completion, whole or streamed, without the ids that differ each time.
text_in() { grep -o '"text": *"[^"]*"' "$1" | sed 's/^"text": *"//; s/"$//' | tr -d '\n'; }
text_of() { ask 200 /v1/completions "$@" && text_in "$dir/out"; }
logs() { # NAME PATTERN: in what the server said
  if grep -Eq -e "$2" "$dir/server.err"; then ok "$1"; else bad "$1" "$(tail -5 "$dir/server.err")"; fi
}

# ---- before it serves ----
if "$CARAVAN" serve models/demo.gguf --check >"$dir/out" 2>&1 && grep -q 'is good' "$dir/out"; then ok check
else bad check "$(tail -3 "$dir/out")"; fi
printf 'me key-0001\nme\n' >"$dir/keys"
if "$CARAVAN" serve models/demo.gguf --check --api-keys "$dir/keys" >"$dir/out" 2>&1; then bad check_keys accepted
elif grep -q 'keys:2' "$dir/out"; then ok check_keys; else bad check_keys "$(cat "$dir/out")"; fi
if "$CARAVAN" serve models/demo.gguf --check --tls-key "$dir/none" >"$dir/out" 2>&1; then bad check_tls accepted
else ok check_tls; fi

# ---- one rank ----
server_start || exit 1
greedy='{"prompt":"A violin is","max_tokens":12,"temperature":0'
says health 200 . /health
says ready 200 ready /ready
says models 200 '"object": *"list"' /v1/models
says completion 200 '"finish_reason": *"(length|stop)"' /v1/completions "$greedy}"
want=$("$CARAVAN" generate models/demo.gguf --prompt "A violin is" --max-tokens 12 --json 2>/dev/null | text_in -)
got=$(text_of "$greedy}")
if [ -n "$want" ] && [ "$want" = "$got" ]; then ok same_as_generate; else bad same_as_generate "$got, expected $want"; fi
says stream 200 '^data: \[DONE\]' /v1/completions "$greedy,\"stream\":true}" -N
says usage_chunk 200 '"completion_tokens": *12' /v1/completions \
  "$greedy,\"ignore_eos\":true,\"stream\":true,\"stream_options\":{\"include_usage\":true}}" -N
says chat 200 '"role": *"assistant"' /v1/chat/completions \
  '{"messages":[{"role":"user","content":"What is a violin?"}],"max_tokens":20,"temperature":0}'
says chat_logprobs 200 '"top_logprobs": *\[ *\{' /v1/chat/completions \
  '{"messages":[{"role":"user","content":"What is a cat?"}],"max_tokens":4,"logprobs":true,"top_logprobs":3}'
says echo_logprobs 200 '"token_logprobs": *\[ *null' /v1/completions \
  '{"prompt":"A cat is","max_tokens":2,"temperature":0,"echo":true,"logprobs":2}'
says embeddings 200 '"embedding": *\[ *-?[0-9]' /v1/embeddings '{"input":["a cat","a dog"]}'
says tokenize 200 '"tokens": *\[ *[0-9]' /tokenize '{"content":"a cat"}'
says detokenize 200 '"(content|text)"' /detokenize '{"tokens":[10,20,30]}'
says metrics 200 '^caravan_.*_total' /metrics
says cluster 200 '"ranks": *\[ *\{' /cluster
says page 200 '<html' /
says wrong_type 400 '"param": *"temperature"' /v1/completions '{"prompt":"a","temperature":"hot"}'
says bad_json 400 '"error"' /v1/completions '{"prompt":'
says too_long 400 '"param": *"max_tokens"' /v1/completions '{"prompt":"a","max_tokens":1000000}'
says not_there 404 '"error"' /v1/nothing
says wrong_method 405 '"error"' /v1/completions

# ---- many at once, each with the bytes it would get alone ----
for i in $(seq 12); do
  body="{\"prompt\":\"The number $i is a\",\"max_tokens\":$((10 + i)),\"temperature\":0.9,\"seed\":$i}"
  alone[i]=$(text_of "$body")
done
for i in $(seq 12); do
  body="{\"prompt\":\"The number $i is a\",\"max_tokens\":$((10 + i)),\"temperature\":0.9,\"seed\":$i}"
  curl -s -m 120 -H 'Content-Type: application/json' --data-binary "$body" "$url/v1/completions" >"$dir/many$i" &
  many[i]=$!
done
wait "${many[@]}"
differing=
for i in $(seq 12); do
  [ -n "${alone[i]}" ] && [ "$(text_in "$dir/many$i")" = "${alone[i]}" ] || differing="$differing $i"
done
if [ -z "$differing" ]; then ok same_alone_and_together; else bad same_alone_and_together "requests$differing"; fi

# ---- a client that leaves: its answer ends, its blocks are free ----
curl -sN -m 0.6 -H 'Content-Type: application/json' \
  --data-binary '{"prompt":"A","max_tokens":900,"ignore_eos":true,"stream":true}' "$url/v1/completions" >/dev/null
free=
for _ in $(seq 50); do
  curl -s "$url/cluster" >"$dir/out"
  grep -Eq '"running": *0' "$dir/out" && grep -Eq '"used": *0' "$dir/out" && { free=1; break; }
  sleep 0.1
done
if [ -n "$free" ]; then ok client_leaves; else bad client_leaves "$(head -c 400 "$dir/out")"; fi

# ---- a rank that dies: the stream goes on with the bytes it would have had ----
long='{"prompt":"A","max_tokens":700,"ignore_eos":true,"temperature":0}'
want=$(text_of "$long")
# Asks for the long answer as a stream, to $dir/stream; $client: the process that asks.
stream_start() {
  : >"$dir/stream"
  curl -sN -m 120 -H 'Content-Type: application/json' --data-binary "${long%\}},\"stream\":true}" "$url/v1/completions" \
    >"$dir/stream" &
  client=$!
}
stream_grows() { # beyond SIZE
  for _ in $(seq 1000); do
    [ "$(stat -c %s "$dir/stream")" -gt "$1" ] && return 0
    kill -0 $client 2>/dev/null || return 1
    sleep 0.02
  done
  return 1
}
# Kills a rank that was not killed yet, once its job has written words of the stream.
killed=
kill_rank() {
  local launcher node=
  for _ in $(seq 500); do
    launcher=$(pgrep -P $server_pid mpirun | tail -1)
    node=$(pgrep -f "caravan node --socket" -P "${launcher:-0}" | head -1)
    [ -n "$node" ] && [ "$node" != "$killed" ] && break
    sleep 0.02
  done
  stream_grows "$(stat -c %s "$dir/stream")" || return 1
  killed=$node
  kill -KILL "$node" 2>/dev/null
}
stream_start
if kill_rank; then
  wait $client
  if [ "$(text_in "$dir/stream")" = "$want" ]; then ok rank_dies; else bad rank_dies "$(head -c 300 "$dir/stream")"; fi
  logs rank_dies_is_logged 'job_lost'
else bad rank_dies "no node was found while it wrote"; fi

# ---- a request under which the job dies again and again is given up; the server goes on ----
stream_start
kill_rank && kill_rank && kill_rank
wait $client
if grep -q 'lost 3 times while this request ran' "$dir/stream"; then ok request_is_given_up
else bad request_is_given_up "$(tail -c 300 "$dir/stream")"; fi
got=$(text_of "$long")
if [ "$got" = "$want" ]; then ok server_goes_on; else bad server_goes_on "$(head -c 300 "$dir/out")"; fi

# ---- the end: a running answer is finished first ----
stream_start
stream_grows 0 || bad drain "it wrote nothing"
server_stop
wait $client
if [ "$(text_in "$dir/stream")" = "$want" ]; then ok drain; else bad drain "$(tail -c 300 "$dir/stream")"; fi
if [ "$server_rc" = 0 ]; then ok exit_code; else bad exit_code "$server_rc: $(tail -3 "$dir/server.err")"; fi

# ---- told twice: running answers are cut ----
server_start --drain-s 300 --max-choices 32 || { bad start_again "$(tail -3 "$dir/server.err")"; exit 1; }
endless='{"prompt":"A","max_tokens":1000,"n":32,"ignore_eos":true,"stream":true}'
curl -sN -m 300 -H 'Content-Type: application/json' --data-binary "$endless" "$url/v1/completions" >"$dir/cut" &
client=$!
until [ -s "$dir/cut" ] || ! kill -0 $client 2>/dev/null; do sleep 0.05; done
kill -TERM $server_pid; sleep 0.5
if kill -0 $server_pid 2>/dev/null; then ok told_once; else bad told_once "it did not wait for the answer"; fi
server_stop
wait $client; rc=$?
if [ $rc != 0 ] && ! grep -q DONE "$dir/cut"; then ok told_twice; else bad told_twice "the answer came to its end"; fi

# ---- a job that never comes to be ends the server ----
timeout 60 "$CARAVAN" serve models/demo.gguf --port 0 --mpirun false >"$dir/out" 2>&1; rc=$?
if [ $rc != 0 ] && [ $rc != 124 ] && grep -q 'exit code 1' "$dir/out"; then ok job_never_starts
else bad job_never_starts "$rc: $(tail -3 "$dir/out")"; fi

# ---- other grids, keys ----
printf '# who key\nme key-0001\nboss key-0002 5\n' >"$dir/keys"
server_start --stages 2 --shards 2 --api-keys "$dir/keys" || exit 1
says no_key 401 '"error"' /v1/models
says wrong_key 401 '"error"' /v1/models '' -H 'Authorization: Bearer key-0003'
says right_key 200 '"list"' /v1/models '' -H 'Authorization: Bearer key-0002'
if [ "$(text_of "$long" -H 'Authorization: Bearer key-0001')" = "$want" ]; then ok same_on_2x2; else bad same_on_2x2 "$(head -c 300 "$dir/out")"; fi
server_stop
if grep -q 'key-000' "$dir/server.err" "$dir/server.out"; then bad keys_are_not_logged "a key is in the log"; else ok keys_are_not_logged; fi
exit $failed
