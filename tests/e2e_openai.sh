#!/usr/bin/env bash
# The official Python client of OpenAI (tests/openai_client.py) against the server. Needs python3 with venv and PyPI (or
# the module at hand); without them it says so and tests nothing. $CARAVAN: the program.
set -u
. "$(dirname "$0")/check.sh"
. tests/server.sh
python=python3
if ! $python -c 'import openai' 2>/dev/null; then
  python=build/venv/bin/python
  if ! $python -c 'import openai' 2>/dev/null; then
    if ! { timeout 60 python3 -m venv build/venv && timeout 120 build/venv/bin/pip -q install openai; } >"$dir/pip" 2>&1; then
      skip openai "its module is not here and cannot be installed: $(tail -1 "$dir/pip")"
      exit 0
    fi
  fi
fi
printf 'tester key-0001\n' >"$dir/keys"
server_start --api-keys "$dir/keys" --stages 2 || exit 1
timeout 300 $python tests/openai_client.py "$url" key-0001 || failed=1
server_stop
exit $failed
