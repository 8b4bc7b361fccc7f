#!/usr/bin/env bash
# The curl examples of the README, as printed but for the port. $CARAVAN: the program.
set -u
. "$(dirname "$0")/check.sh"
. tests/server.sh
server_start || exit 1
n=0
while IFS= read -r line; do
  n=$((n + 1))
  command=${line//http:\/\/127.0.0.1:8080/$url}
  if timeout 60 bash -c "${command/#curl/curl -sf}" >"$dir/out" 2>&1 && [ -s "$dir/out" ]; then ok readme_curl_$n
  else bad readme_curl_$n "$line: $(head -c 300 "$dir/out")"; fi
done < <(sed -n 's/^    \(curl .*\)/\1/p' README.md)
check readme_has_examples [ $n -ge 5 ]
exit $failed
