#!/usr/bin/env bash
# The official Python client of OpenAI (tests/openai_client.py) against the server. Needs python3 with venv and PyPI (or
# the module at hand); without them it says so and tests nothing. $CARAVAN: the program.
set -u
cd "$(dirname "$0")/.."
CARAVAN=${CARAVAN:-$PWD/build/caravan}
dir=$(mktemp -d)
. tests/server.sh
trap 'server_stop; rm -rf "$dir"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
python=python3
if ! $python -c 'import openai' 2>/dev/null; then
  python=build/venv/bin/python
  if ! $python -c 'import openai' 2>/dev/null; then
    if ! { timeout 60 python3 -m venv build/venv && timeout 120 build/venv/bin/pip -q install openai; } >"$dir/pip" 2>&1; then
      echo "skipped: the module openai is not there and cannot be installed: $(tail -1 "$dir/pip")"
      exit 0
    fi
  fi
fi
printf 'tester key-0001\n' >"$dir/keys"
server_start --api-keys "$dir/keys" --stages 2 || { echo "[  FAILED  ] start"; tail -5 "$dir/server.err"; exit 1; }
timeout 300 $python tests/openai_client.py "$url" key-0001 || failed=1
server_stop
exit ${failed:-0}
