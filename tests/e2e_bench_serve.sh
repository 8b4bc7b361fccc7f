#!/usr/bin/env bash
# `bench serve` against a server of our own: closed and open loops, clients that leave, JSON, the picture, the soak
# test; and servers that are not there, refuse, break off, hang or change their mind. Nothing here judges a time.
# $CARAVAN: the program.
set -u
. "$(dirname "$0")/check.sh"
. tests/server.sh

# says NAME RC FILE PATTERN args...: exit code RC, and the pattern in $dir/FILE (out or err).
says() {
  local name=$1 want=$2 file=$3 pattern=$4 rc
  shift 4
  timeout 120 "$CARAVAN" bench serve "$@" >"$dir/out" 2>"$dir/err" </dev/null; rc=$?
  if [ $rc -ne "$want" ]; then bad "$name" "exit code $rc, expected $want: $(tail -3 "$dir/err")"
  elif ! grep -Eq -e "$pattern" "$dir/$file"; then bad "$name" "$file: $(head -c 600 "$dir/$file")"
  else ok "$name"; fi
}

# holds NAME FILE PATTERN: in what the last `says` left.
holds() { if grep -Eq -e "$3" "$dir/$2"; then ok "$1"; else bad "$1" "$(head -c 600 "$dir/$2")"; fi; }

# json NAME EXPRESSION: of the JSON object d that the last `says` left.
json() {
  if python3 -c "import json, sys; d = json.load(open(sys.argv[1])); sys.exit(not ($2))" "$dir/out" 2>"$dir/why"
  then ok "$1"; else bad "$1" "$2: $(tail -1 "$dir/why") $(head -c 600 "$dir/out")"; fi
}

# await FILE PATTERN: what the pattern's group holds, once it is there.
await() {
  for _ in $(seq 600); do
    grep -Eq "$2" "$1" && { sed -En "s#.*$2.*#\\1#p" "$1" | head -1; return; }
    sleep 0.1
  done
}

# ---- wrong usage, and nobody there ----
says no_server 2 err 'no server; usage'
says no_url 2 err 'expected http://HOST:PORT' localhost
says bad_range 2 err 'prompt-tokens' http://127.0.0.1:1 --prompt-tokens 5-x
says turned_range 2 err 'ends before it begins' http://127.0.0.1:1 --tokens 9-3
says bad_share 2 err 'disconnect' http://127.0.0.1:1 --disconnect 1.5
says bad_kind 2 err 'expected ids or text' http://127.0.0.1:1 --prompt-kind words
says both_loops 2 err 'give one of them' http://127.0.0.1:1 --clients 2 --rate 3
says dead_port 1 err 'http://127.0.0.1:1: .*connect' http://127.0.0.1:1 --clients 4

# ---- our own server ----
server_start --context 1024 --kv-tokens 8192 || exit 1

says closed_loop 0 out '^4 clients, .*: 12 answered, 0 left, 0 failed' "$url" --clients 4 --requests 12 \
  --prompt-tokens 8-40 --tokens 1-12 --plot "$dir/closed.svg"
holds table out '^  between tokens +[0-9.]+ +[0-9.]+'
if python3 -c 'import sys, xml.dom.minidom as x; d = x.parse(sys.argv[1]); sys.exit(len(d.getElementsByTagName("polyline")) != 3)' \
  "$dir/closed.svg" 2>"$dir/why"
then ok plot_is_well_formed; else bad plot_is_well_formed "$(tail -1 "$dir/why")"; fi
says open_loop 0 out '"sent_late"' "$url" --rate 20,50 --requests 10 --prompt-tokens 20 --tokens 8 --json
json json_has_all 'len(d["runs"]) == 2 and all(r["answered"] == 10 and r["failed"] == 0 for r in d["runs"])'
json lengths_are_exact 'all(r["prompt_tokens"] == 200 and r["output_tokens"] == 80 and r["short_answers"] == 0 for r in d["runs"])'
json percentiles_ascend 'all(0 < t["p50"] <= t["p90"] <= t["p99"] <= t["max"] for r in d["runs"]
  for t in (r["first_token_s"], r["whole_answer_s"]))'
json series_is_there 'all(len(r["series"]["output_tokens_per_s"]) > 0 for r in d["runs"])'
says duration 0 out '"answered"' "$url" --clients 2 --duration-s 2.5 --prompt-tokens 8 --tokens 8 --json
json runs_as_long_as_told '2.5 <= d["runs"][0]["seconds"] < 60 and d["runs"][0]["answered"] > 0'
json server_is_watched 'len(d["runs"][0]["metrics"]["at_s"]) >= 2 and all(len(p) and min(p) > 1e6
  for p in d["runs"][0]["metrics"]["resident_bytes"][:1])'
says text_prompts 0 out ' 2 answered, 0 left, 0 failed' "$url" --clients 1 --requests 2 --prompt-kind text --prompt-tokens 12 --tokens 3
says shared_prefix 0 out '"answered": 8' "$url" --clients 2 --requests 8 --shared-prefix-tokens 256 --prompt-tokens 8 --tokens 4 --json
json prefix_is_counted 'd["runs"][0]["prompt_tokens"] == 8 * 264'
says warmup 0 out '"answered": 2' "$url" --clients 1 --requests 2 --warmup 2 --prompt-tokens 8 --tokens 2 --json

# The soak test of the release, short: every whole answer again, alone; no KV block left.
says soak 0 out 'of which 0 differ and 0 failed' "$url" --clients 12 --duration-s 5 --prompt-tokens 1-600 --tokens 1-32 \
  --disconnect 0.33 --verify
holds soak_some_left out ' [1-9][0-9]* left, 0 failed'
holds soak_frees_all out 'KV blocks in use at the end: 0'
says too_long 1 err 'requests (in a row )?failed.*HTTP 400' "$url" --clients 1 --requests 1 --prompt-tokens 2000 --tokens 4

# ---- servers that misbehave ----
cat >"$dir/mock.py" <<'PY'
"""A server of completions that answers "abcdef..." unless it is told to misbehave."""
import http.server, json, sys, time
mode, count = sys.argv[1], [0]
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def reply(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())
    def do_GET(self):
        if mode == "key" and self.headers.get("Authorization") != "Bearer secret": return self.reply(401, "{}")
        if self.path == "/v1/models": return self.reply(200, '{"data": [{"id": "mock"}]}')
        if self.path == "/metrics" and mode == "leak": return self.reply(200, "caravan_kv_blocks_used 3\n")
        self.reply(404, "")
    def event(self, text):
        data = f"data: {text}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        count[0] += 1
        n = count[0]
        if mode == "full" and n % 2: return self.reply(429, '{"error": {"message": "too many"}}')
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if mode == "hang": time.sleep(60)
        for i in range(request["max_tokens"]):
            if mode == "error" and i == 2: self.event('{"error": {"message": "lost it"}}')
            if mode == "cut" and i == 2: break
            if mode == "break" and i == 2:
                self.close_connection = True
                return
            letter = "Z" if mode == "differ" and n == 5 else "abcdefghij"[i]
            self.event(json.dumps({"choices": [{"text": letter}]}))
        else: self.event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
print(f"at http://127.0.0.1:{server.server_address[1]}", flush=True)
server.serve_forever()
PY

# mocked NAME MODE RC FILE PATTERN flags...
mocked() {
  local name=$1 mode=$2 want=$3 file=$4 pattern=$5 at pid
  shift 5
  python3 "$dir/mock.py" "$mode" >"$dir/mock.$mode" 2>/dev/null & pid=$!
  at=$(await "$dir/mock.$mode" 'at (http://[^ ]+)')
  says "$name" "$want" "$file" "$pattern" "$at" --clients 2 --requests 8 --prompt-tokens 3 --tokens 6 "$@"
  kill $pid; wait $pid 2>/dev/null
}
mocked plain_server good 0 out ' 8 answered, 0 left, 0 failed'
mocked not_watched good 0 out 'does not say how many KV blocks' --verify
mocked key_is_wanted key 1 err 'HTTP 401: --api-key'
mocked key_is_sent key 0 out ' 8 answered' --api-key secret
mocked full_is_counted full 1 out '^  4 failed: HTTP 429: too many'
mocked error_in_stream error 1 err '8 of 8 requests failed \(error in the stream: lost it\)'
mocked stream_without_end cut 1 err '8 of 8 requests failed \(cut short'
mocked broken_connection break 1 err '8 of 8 requests failed \(connection broken'
mocked deadline hang 1 err '8 of 8 requests failed \(deadline' --deadline-s 0.3
mocked gives_up_on_the_dead error 1 err 'gave up: [0-9]+ requests in a row failed' --requests 1000
mocked verify_finds_a_difference differ 1 err '1 of 8 answers differ .* byte 0 of 6 and 6' --verify
mocked verify_finds_a_block leak 1 err '3 KV blocks are in use at the end' --verify
exit $failed
