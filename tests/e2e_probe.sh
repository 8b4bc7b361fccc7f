#!/usr/bin/env bash
# caravan probe: what a job measures, what of it is kept, and a file of it that can be planned with.
# $CARAVAN: the program. Prints one line per case in the form tests/run counts.
set -u
. "$(dirname "$0")/check.sh"
export XDG_CACHE_HOME=$dir/cache
mkdir "$dir/cache"
model=models/demo.gguf

# probe ARGS...: standard output in $dir/out.
probe() { timeout 120 "$CARAVAN" probe --reference --formats F16 "$@" >"$dir/out" 2>"$dir/err" </dev/null; }
devices() { sed 's/.*"devices": \(.*\), "links".*/\1/' "$dir/out"; }
# ranks N: so many were measured.
ranks() { [ "$(grep -o '"row_per_s"' "$dir/out" | wc -l)" = "$1" ]; }
files() { ls -i "$dir"/cache/caravan/probe/*; }

measures() { probe --ranks 2 --json && ranks 2 && grep -q '"F16"' "$dir/out" &&
  grep -q '"latency_s"' "$dir/out"; }
check a_job_is_measured measures
devices >"$dir/first"
files >"$dir/files"

# Figures of a measurement never come out the same to the last digit twice.
keeps() { probe --ranks 2 --json && devices | cmp -s - "$dir/first" && files | cmp -s - "$dir/files"; }
check figures_are_kept keeps
anew() { probe --ranks 2 --json --probe again && ! devices | cmp -s - "$dir/first" && ! files | cmp -s - "$dir/files"; }
check again_measures_anew anew

# What is measured for a model is what its jobs take: they measure nothing more.
taken() { XDG_CACHE_HOME=$dir/taken timeout 120 "$CARAVAN" probe "$model" --reference --ranks 2 >"$dir/out" 2>"$dir/err" </dev/null &&
  ls -i "$dir"/taken/caravan/probe/* >"$dir/files" && XDG_CACHE_HOME=$dir/taken timeout 120 "$CARAVAN" generate "$model" \
  --prompt A --reference --ranks 2 --probe on --max-tokens 2 >"$dir/out" 2>"$dir/err" </dev/null &&
  ls -i "$dir"/taken/caravan/probe/* | cmp -s - "$dir/files"; }
mkdir "$dir/taken"
check a_job_takes_what_was_measured_for_its_model taken

broken() { for f in "$dir"/cache/caravan/probe/*; do echo '{"key":' >"$f"; done
  probe --ranks 2 && grep -q "probe.cache" "$dir/err" && probe --ranks 2 && ! grep -q "probe.cache" "$dir/err"; }
check a_broken_file_is_measured_again broken

table() { probe --ranks 2 --out "$dir/cluster.cfg" && grep -q "^rank 1, host .*plain C / reference" "$dir/out" &&
  grep -q "F16 *one row" "$dir/out" && grep -q "^inside " "$dir/out"; }
check a_table_and_a_file table
plans() { timeout 60 "$CARAVAN" plan "$model" --cluster "$dir/cluster.cfg" >"$dir/out" 2>"$dir/err" &&
  grep -q "tokens/s" "$dir/out"; }
check the_file_can_be_planned_with plans

inside() { timeout 120 mpirun -n 3 --oversubscribe --bind-to none "$CARAVAN" probe --reference --formats F16 --json \
  >"$dir/out" 2>"$dir/err" </dev/null && ranks 3; }
check inside_an_mpi_launch inside

wrong() { probe --formats F16,Q9_9; [ $? = 2 ] || [ $? = 1 ] && grep -q "Q9_9" "$dir/err"; }
check an_unknown_format_is_named wrong
unwritable() { probe --ranks 1 --out "$dir/nowhere/cluster.cfg"; [ $? = 1 ] && grep -q "nowhere/cluster.cfg" "$dir/err"; }
check a_file_that_cannot_be_written unwritable
exit $failed
