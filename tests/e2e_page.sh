#!/usr/bin/env bash
# The web page in a headless Chromium, on the demo model: streaming, stopping, what survives a reload, the view of the
# cluster, a phone, keyboard and screen reader.
# Usage: tests/e2e_page.sh [--screenshot FILE | CASE...]    needs Chromium and Python; says so where there is none
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

dir=$(mktemp -d)
. tests/server.sh
trap 'server_stop; rm -rf "$dir"' EXIT
# Plain C answers slowly enough to watch; a picture is taken of a device.
how=--reference
[ "${1:-}" != --screenshot ] || how=
if [ -z "${BASE_URL:-}" ]; then
  # shellcheck disable=SC2086
  server_start --stages 2 --shards 2 --access-log none $how || { echo "[  FAILED  ] page_server_starts"; exit 1; }
  BASE_URL=$url
fi
PYTHONDONTWRITEBYTECODE=1 python3 tests/drive_page.py "$chromium" "$BASE_URL" "$@"
