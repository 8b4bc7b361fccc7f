#!/usr/bin/env bash
# A model too large for one host: virtual hosts (tests/hosts.sh) whose memory is capped by the kernel below the model's
# size. One of them must refuse, four together must give the tokens of a rank that has room.
#
#     tests/e2e_large.sh                                    # 1.1 B, 637 MB
#     MODEL=7b.gguf CAP=40 tests/e2e_large.sh               # another model; each host gets CAP percent of its size
#
# The cap counts what the kernel counts: all memory of a host's processes, pages of files too. Beside its weights a rank needs
# some 100 MB for the OpenCL driver and its compiler, so the small model's cap is 60%, not 40%.
# $CARAVAN: the program. Prints one line per case in the form tests/run counts.
set -u
. "$(dirname "$0")/check.sh"
export HOSTS_NAME=large$$
hosts=tests/hosts.sh
if ! why=$($hosts check 2>&1); then skip too_large_for_one "$why"; exit 0; fi
trap '$hosts down; rm -rf "$dir"' EXIT
model=${MODEL:-}
if [ -z "$model" ]; then
  python3 -c 'import numpy' 2>/dev/null || { skip too_large_for_one "python3 with numpy makes the model"; exit 0; }
  [ "$(df -Pm "$dir" | awk 'NR == 2 {print $4}')" -gt 2000 ] || { skip too_large_for_one "no room for the model in $dir"; exit 0; }
  model=$dir/model.gguf
  python3 bench/make_model.py --shape 1.1b --format Q4_0 --out "$model" >"$dir/out" 2>&1 || { bad make_model "$(cat "$dir/out")"; exit 1; }
fi
cap=$(($(stat -Lc %s "$model") * ${CAP:-60} / 100 / 1048576))
$hosts up 4 --memory $cap --for $$ 2>"$dir/err" || { skip too_large_for_one "$(cat "$dir/err")"; exit 0; }
$hosts hostfile >"$dir/hosts"

# Unmeasured: a probe takes some 330 MB of its own before anything is loaded, more than a rank of this model.
ask=(generate "$model" --prompt "A violin is" --max-tokens 6 --ignore-eos --context 128 --threads 1 --json --probe off)
tokens() { sed -n 's/.*"tokens": \[\([0-9, ]*\)\], "text".*/\1/p' "$dir/$1"; }

$hosts exec h1 "$CARAVAN" "${ask[@]}" >"$dir/out" 2>"$dir/err"
rc=$?
if [ $rc = 1 ] && grep -q "missing; .* would fit" "$dir/err"; then ok one_refuses
else bad one_refuses "exit code $rc: $(cat "$dir/err")"; fi

"$CARAVAN" "${ask[@]}" >"$dir/one" 2>"$dir/err" || bad one_with_room "$(cat "$dir/err")"
timeout 300 $hosts exec h1 "$CARAVAN" "${ask[@]}" --stages 4 --hosts "$dir/hosts" --mpirun-args "$($hosts mpirun-args)" \
  >"$dir/four" 2>"$dir/err"
[ -n "$(tokens four)" ] && [ "$(tokens four)" = "$(tokens one)" ] && ok four_together || bad four_together "$(cat "$dir/err" "$dir/four")"

# What the kernel counted at most: what the plan says, and 80 MB for the program and the driver; of a large model
# that is within a tenth.
[ -n "${MODEL:-}" ] && beside=0 || beside=$((80 << 20))
"$CARAVAN" plan "$model" --stages 4 --context 128 --json >"$dir/plan"
h=0
for bytes in $(grep -o '"total_bytes": [0-9]*' "$dir/plan" | cut -d' ' -f2); do
  h=$((h + 1))
  peak=$($hosts memory-peak h$h)
  echo "h$h: planned $((bytes / 1000000)) MB, used $((peak / 1000000)) MB at most ($((100 * peak / bytes))%), cap $((cap * 1048576 / 1000000)) MB"
  [ "$peak" -le $((bytes / 10 * 11 + beside)) ] && ok peak_of_h$h || bad peak_of_h$h "$peak bytes, planned $bytes"
done
exit $failed
