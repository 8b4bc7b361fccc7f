# For the scripts that need a running server: sourced after check.sh.
#   server_start ARGS...   starts `caravan serve models/demo.gguf --port 0 ARGS`; sets $url and $server_pid;
#                          where it does not get ready, that is a case that failed
#   server_stop            ends it politely; sets $server_rc; done at the end, too
# Its words are in $dir/server.out and $dir/server.err.
trap 'server_stop; rm -rf "$dir"' EXIT
server_pid=
server_start() {
  "$CARAVAN" serve models/demo.gguf --port 0 "$@" >"$dir/server.out" 2>"$dir/server.err" </dev/null &
  server_pid=$!
  url=
  for _ in $(seq 600); do
    url=$(sed -n 's/^listening at //p' "$dir/server.out")
    [ -n "$url" ] && curl -fsk -m 5 "$url/ready" >"$dir/ready" 2>/dev/null && return 0
    kill -0 $server_pid 2>/dev/null || break
    sleep 0.2
  done
  bad server_starts "$(tail -3 "$dir/server.err")"
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
