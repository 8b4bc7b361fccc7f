#!/usr/bin/env bash
# The curl examples of the README, as printed but for the port. $CARAVAN: the program.
set -u
cd "$(dirname "$0")/.."
CARAVAN=${CARAVAN:-$PWD/build/caravan}
dir=$(mktemp -d)
. tests/server.sh
trap 'server_stop; rm -rf "$dir"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
server_start || { echo "[  FAILED  ] start"; exit 1; }
n=0 failed=0
while IFS= read -r line; do
  n=$((n + 1))
  command=${line//http:\/\/127.0.0.1:8080/$url}
  if timeout 60 bash -c "${command/#curl/curl -sf}" >"$dir/out" 2>&1 && [ -s "$dir/out" ]; then echo "[       OK ] readme_curl_$n"
  else echo "[  FAILED  ] readme_curl_$n"; echo "  $line: $(head -c 300 "$dir/out")"; failed=1; fi
done < <(sed -n 's/^    \(curl .*\)/\1/p' README.md)
if [ $n -lt 5 ]; then echo "[  FAILED  ] readme_has_examples"; failed=1; fi
exit $failed
