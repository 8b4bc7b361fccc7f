#!/usr/bin/env bash
# The web page in a headless Chromium, on the demo model: streaming, stopping, what survives a reload, the view of the
# cluster, a phone, keyboard and screen reader.
# Usage: tests/e2e_page.sh [--screenshot FILE] [CASE...]    needs Chromium and Python; says so where there is none
# BASE_URL=http://...: a server that runs already, in place of one of its own.
set -u
cd "$(dirname "$0")/.."
CARAVAN=${CARAVAN:-$PWD/build/caravan}
skip() { echo "[ SKIPPED  ] page: $1"; exit 0; }

chromium=
for name in chromium chromium-browser google-chrome; do
  command -v $name >/dev/null && { chromium=$(command -v $name); break; }
done
[ -n "$chromium" ] || skip "no chromium here (apt-get install chromium)"
command -v python3 >/dev/null || skip "no python3 here (apt-get install python3)"

dir=$(mktemp -d) server=
# shellcheck disable=SC2064
trap '[ -z "$server" ] || { kill $server; wait $server; } 2>/dev/null; rm -rf "$dir"' EXIT

if [ -z "${BASE_URL:-}" ]; then
  "$CARAVAN" serve models/demo.gguf --port 0 --stages 2 --shards 2 --access-log none >"$dir/out" 2>"$dir/err" &
  server=$!
  for _ in $(seq 300); do
    BASE_URL=$(grep -ohE 'https?://[][0-9a-zA-Z.:]+' "$dir/out" "$dir/err" | head -1)
    [ -n "$BASE_URL" ] && break
    kill -0 $server 2>/dev/null || break
    sleep 0.1
  done
  if [ -z "$BASE_URL" ]; then
    echo "[  FAILED  ] page_server_starts"
    cat "$dir/out" "$dir/err"
    exit 1
  fi
fi
PYTHONDONTWRITEBYTECODE=1 python3 tests/drive_page.py "$chromium" "$BASE_URL" "$@"
