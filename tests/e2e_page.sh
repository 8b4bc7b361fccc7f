#!/usr/bin/env bash
# The web page in a headless Chromium, on the demo model: streaming, stopping, what survives a reload, the view of the
# cluster, a phone, keyboard and screen reader.
# Usage: tests/e2e_page.sh [--screenshot FILE | CASE...]    needs Chromium and Python; says so where there is none
# BASE_URL=http://...: a server that runs already, in place of one of its own.
set -u
. "$(dirname "$0")/check.sh"
. tests/server.sh

chromium=
for name in chromium chromium-browser google-chrome; do
  command -v $name >/dev/null && { chromium=$(command -v $name); break; }
done
[ -n "$chromium" ] || { skip page "no chromium here (apt-get install chromium)"; exit 0; }
command -v python3 >/dev/null || { skip page "no python3 here (apt-get install python3)"; exit 0; }

# Plain C answers slowly enough to watch; a picture is taken of a device.
how=--reference
[ "${1:-}" != --screenshot ] || how=
if [ -z "${BASE_URL:-}" ]; then
  # shellcheck disable=SC2086
  server_start --stages 2 --shards 2 --access-log none $how || exit 1
  BASE_URL=$url
fi
PYTHONDONTWRITEBYTECODE=1 python3 tests/drive_page.py "$chromium" "$BASE_URL" "$@"
