#!/usr/bin/env bash
# The benchmarks and tune from outside, with tiny budgets: what they print, what they refuse, and peers that are missing,
# fail, hang or print nonsense. Nothing here judges a time. $CARAVAN: the program.
set -u
. "$(dirname "$0")/check.sh"
export XDG_CONFIG_HOME=$dir/config
model=models/demo.gguf

# says NAME RC FILE PATTERN args...: exit code RC, and the pattern in $dir/FILE (out or err).
says() {
  local name=$1 want=$2 file=$3 pattern=$4 rc
  shift 4
  timeout 300 "$CARAVAN" "$@" >"$dir/out" 2>"$dir/err" </dev/null; rc=$?
  if [ $rc -ne "$want" ]; then bad "$name" "exit code $rc, expected $want: $(tail -3 "$dir/err")"
  elif ! grep -Eq -e "$pattern" "$dir/$file"; then bad "$name" "$file: $(head -c 400 "$dir/$file")"
  else ok "$name"; fi
}

# holds NAME FILE PATTERN: in what the last `says` left.
holds() { if grep -Eq -e "$3" "$dir/$2"; then ok "$1"; else bad "$1" "$(head -c 400 "$dir/$2")"; fi; }

# A peer whose body is given; its arguments go to a file.
peer() {
  printf '#!/bin/sh\n[ "$1" = --help ] && { echo "-rtr <0|1>"; exit 0; }\necho "$@" >>"%s/args"\n%s\n' "$dir" "$2" >"$dir/$1"
  chmod +x "$dir/$1"
}
speeds='echo "[{\"build_commit\":\"abc\",\"build_number\":1,\"n_prompt\":8,\"n_gen\":0,\"avg_ts\":10},"
echo "{\"build_commit\":\"abc\",\"build_number\":1,\"n_prompt\":0,\"n_gen\":4,\"avg_ts\":5}]"'
compare=(bench compare "$model" --prompt-tokens 8 --tokens 4 --repeat 1)

# ---- ops ----
says ops 0 out '^linear +Q8_0 +64x256 +1 .*%' bench ops --formats Q8_0,F32 --rows 1,9 --shape 64x256 --contexts 40 --heads 4x2
holds ops_names_the_peak out '^peak [0-9]+ GOP/s of 8-bit dots'
for op in embed norm quantize reduce kv-write glu act select; do holds "ops_$op" out "^$op "; done
holds ops_attend out '^attend +F16 +4x2 at 40'
says ops_json 0 out '"int8_peak_gop_per_s"' bench ops --json --ops glu --shape 64x256 --rows 1
says ops_unknown 2 err 'no op "gather"' bench ops --ops gather
says ops_bad_shape 2 err 'multiples of 256' bench ops --formats Q4_K --shape 64x64
says ops_bad_heads 2 err 'multiples of KV heads' bench ops --heads 3x2

# ---- generate ----
says contexts 0 out '^1x1 +at 40 ' bench generate $model --contexts 0,40 --tokens 2 --repeat 2
holds context_zero out '^1x1 +at 1 '
says contexts_of_streams 0 out '^1x1 +at 8 ' bench generate $model --contexts 8 --streams 3 --tokens 2 --repeat 2
says contexts_json 0 out '"is_context": true' bench generate $model --contexts 8 --prompt-tokens 4 --tokens 2 --repeat 1 --json
says context_too_long 1 err 'was made for' bench generate $model --contexts 16000000 --tokens 2

# ---- compare ----
peer llama-bench "$speeds"
says compare 0 out '^llama-bench +8 +10.0 .* [0-9.]+ +5.0 ' "${compare[@]}" --llama-bench "$dir/llama-bench"
holds compare_ours out '^caravan +8 '
holds compare_read out '^plain read of memory'
holds compare_version out 'llama-bench abc \(1\) -rtr 1'
if grep -q -- "-m $model -p 8 -n 4 -t [0-9]* -r 1 -o json -rtr 1" "$dir/args"; then ok compare_arguments
else bad compare_arguments "$(cat "$dir/args")"; fi
PATH="$dir:$PATH" says compare_on_the_path 0 out '"ours_to_decode"' "${compare[@]}" --json
says compare_missing 0 err 'llama-bench is left out: there is no such program' "${compare[@]}" --llama-bench "$dir/nothing"
peer llama-bench 'kill -9 $$'
says compare_crash 0 err 'llama-bench is left out: was ended by signal 9' "${compare[@]}" --llama-bench "$dir/llama-bench"
holds compare_goes_on out '^caravan +8 '
peer llama-bench 'echo good; echo no model >&2; exit 3'
says compare_fails 0 err 'left out: exit code 3: no model' "${compare[@]}" --llama-bench "$dir/llama-bench"
peer llama-bench 'echo what'
says compare_nonsense 0 err 'left out: printed no JSON array' "${compare[@]}" --llama-bench "$dir/llama-bench"
peer dllama 'echo "x Eval 10 ms Sync 0 ms | (8 tokens)"; echo "x Pred 50 ms Sync 0 ms | a"'
says compare_dllama_needs 0 err 'dllama is left out: it needs' "${compare[@]}" --dllama "$dir/dllama"
says compare_dllama 0 out '^dllama +8 +800.0 .* 20.0 ' "${compare[@]}" --dllama "$dir/dllama" --dllama-model m \
  --dllama-tokenizer t --dllama-workers a:1,b:2
if grep -q 'inference .* --steps 12 --model m --tokenizer t --nthreads 1 --buffer-float-type q80 --workers a:1 b:2' "$dir/args"
then ok compare_dllama_arguments; else bad compare_dllama_arguments "$(tail -1 "$dir/args")"; fi

# A peer that hangs is ended with all that it started; one that runs as this process dies goes with it.
peer llama-bench "sleep 1000 & echo \$! >$dir/sleeper; trap '' TERM; wait; sleep 1000"
says compare_hang 0 err 'left out: did not end within 8 s' "${compare[@]}" --llama-bench "$dir/llama-bench" --run-deadline-s 8
gone() { # NAME PID: within 5 s
  for _ in $(seq 50); do [ -d "/proc/$2" ] && ! grep -q '^State:.Z' "/proc/$2/status" || { ok "$1"; return; }; sleep 0.1; done
  bad "$1" "process $2 still runs"
}
gone compare_hang_leaves_nothing "$(cat "$dir/sleeper")"
rm -f "$dir/sleeper"
peer llama-bench "echo \$\$ >$dir/sleeper; exec sleep 1000"
"$CARAVAN" "${compare[@]}" --llama-bench "$dir/llama-bench" >/dev/null 2>&1 &
self=$!
for _ in $(seq 600); do [ -s "$dir/sleeper" ] && break; sleep 0.1; done
kill -9 $self; wait $self 2>/dev/null
if [ -s "$dir/sleeper" ]; then gone compare_killed_takes_peers_along "$(cat "$dir/sleeper")"
else bad compare_killed_takes_peers_along "the peer never ran"; fi

# ---- tune ----
says tune 0 out '^kept in .*/config/caravan/tune/.*\.cfg' tune --minutes 0.02 --formats Q8_0
holds tune_explains out '^GROUP_ITEMS +64 '
holds tune_shows_progress err '^ *[0-9]+%  GROUP_ITEMS = '
file=$(sed -n 's/^kept in //p' "$dir/out")
says tune_is_used 0 out "tuned by $file" bench ops --ops glu --shape 64x256 --rows 1
echo 'tunables = { GROUP_ITEMS = 7; };' >"$file"
says bad_file_is_passed_over 0 err "$file:1: tunables.GROUP_ITEMS: .*not used" bench ops --ops glu --shape 64x256 --rows 1
says tune_bad_minutes 2 err 'minutes: expected a number' tune --minutes x
says tune_unknown_flag 2 err 'tune --help' tune --frobnicate 1
says tune_cannot_write 1 err 'cannot make the folder|cannot write' tune --minutes 0.01 --formats Q8_0 --out "$dir/args/x/y.cfg"
exit $failed
