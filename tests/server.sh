# For the scripts that need a running server: source this after `dir` and `CARAVAN` are set.
#   server_start ARGS...   starts `caravan serve models/demo.gguf --port 0 ARGS`; sets $url and $server_pid
#   server_stop            ends it politely; sets $server_rc
# Its words are in $dir/server.out and $dir/server.err.
server_pid=
server_start() {
  "$CARAVAN" serve "${server_model:-models/demo.gguf}" --port 0 "$@" >"$dir/server.out" 2>"$dir/server.err" </dev/null &
  server_pid=$!
  url=
  for _ in $(seq 600); do
    url=$(sed -n 's/^listening at //p' "$dir/server.out")
    [ -n "$url" ] && curl -fsk -m 5 "$url/ready" >"$dir/ready" 2>/dev/null && return 0
    kill -0 $server_pid 2>/dev/null || break
    sleep 0.2
  done
  echo "the server did not become ready: $(tail -5 "$dir/server.err")"
  return 1
}
server_stop() {
  [ -n "$server_pid" ] || return 0
  kill -TERM $server_pid 2>/dev/null
  for _ in $(seq 300); do kill -0 $server_pid 2>/dev/null || break; sleep 0.1; done
  kill -KILL $server_pid 2>/dev/null
  wait $server_pid; server_rc=$?
  server_pid=
}
