#!/usr/bin/env bash
# bench pipeline from outside: what it prints and refuses, and that the figures of the ranks fit each other. Nothing here
# judges a time. $CARAVAN: the program.
set -u
. "$(dirname "$0")/check.sh"
model=models/demo.gguf

# runs NAME RC FILE PATTERN args...: exit code RC, and the pattern in $dir/FILE (out or err).
runs() {
  local name=$1 want=$2 file=$3 pattern=$4 rc
  shift 4
  timeout 120 "$CARAVAN" bench pipeline "$@" >"$dir/out" 2>"$dir/err" </dev/null; rc=$?
  if [ $rc -ne "$want" ]; then bad "$name" "exit code $rc, expected $want: $(tail -3 "$dir/err")"
  elif ! grep -Eq -e "$pattern" "$dir/$file"; then bad "$name" "$file: $(head -c 400 "$dir/$file")"
  else ok "$name"; fi
}

# Values of a key in the JSON on one line, one per line.
values() { grep -o "\"$1\": [0-9.e+-]*" "$dir/out" | sed 's/.*: //'; }

runs text 0 out '^6 streams: [0-9.]+ tokens/s read, [0-9.]+ written$' $model --stages 3 --streams 1,6 --tokens 8
if [ "$(grep -Ec '^ +[012] +0 .*%.* ms' "$dir/out")" = 6 ]; then ok text_has_a_line_per_rank; else bad text_has_a_line_per_rank "$(cat "$dir/out")"; fi
if grep -Eq 'of which .* ms computing; a hop: [0-9]+ us$' "$dir/out"; then ok text_says_what_a_hop_costs
else bad text_says_what_a_hop_costs "$(cat "$dir/out")"; fi
runs one_stage_has_no_hops 0 out '"hop_s": null' $model --streams 1 --tokens 8 --json

runs json 0 out '"plan": \{"stages": 2, "shards": 2\}' $model --stages 2 --shards 2 --streams 1,4 --tokens 12 --json
# Each window is {seconds, busy, shards, sending, bubble, ...}: two of each rank, in both runs.
if grep -o '"busy": [^,]*, "shards": [^,]*, "sending": [^,]*, "bubble": [^,]*' "$dir/out" | tr -d '":,a-z' |
  awk '{ sum = $1 + $2 + $3 + $4; if (sum <= 0 || sum > 1.001) bad = 1 } END { exit !(NR == 16 && !bad) }'
then ok shares_of_a_window_fit_into_it; else bad shares_of_a_window_fit_into_it "$(cat "$dir/out")"; fi
# The windows of all ranks hold the same steps.
if values steps | awk '{ n[int((NR - 1) / 8) * 2 + (NR - 1) % 2] = n[int((NR - 1) / 8) * 2 + (NR - 1) % 2] " " $1 }
  END { for (i in n) { split(n[i], s, " "); for (k in s) if (s[k] != s[1] || s[k] < 1) exit 1 } exit NR != 16 }'
then ok ranks_count_the_same_steps; else bad ranks_count_the_same_steps "$(values steps | tr '\n' ' ')"; fi
if values token_s | paste - <(values compute_s) | awk '{ if ($2 <= 0 || NR == 1 && $2 > $1) bad = 1 } END { exit !(NR == 2 && !bad) }'
then ok computing_is_a_part_of_a_token; else bad computing_is_a_part_of_a_token "$(cat "$dir/out")"; fi

# What is forecast and what was measured, of every rank and in all: two runs of two ranks.
runs facts 0 out '"facts": \{"decode_tokens_per_s": \{' $model --stages 2 --streams 1,4 --tokens 8 --json
if [ "$(grep -o '"memory_bytes": {"forecast": [^,]*, "measured": [1-9]' "$dir/out" | wc -l)" = 4 ]; then ok facts_of_every_rank
else bad facts_of_every_rank "$(cat "$dir/out")"; fi

# The same bytes, however many steps are under way.
words="$CARAVAN generate $model --prompt 'A violin is a bowed instrument. A cat is an animal. A spool is' --max-tokens 24 --json"
for grid in 1 3 4; do
  eval "$words --stages $grid --prefill-chunk 64" 2>"$dir/err" | sed -n 's/.*"text": "\(.*\)", "finish_reason.*/\1/p' >"$dir/text$grid"
done
if [ -s "$dir/text1" ] && cmp -s "$dir/text1" "$dir/text3" && cmp -s "$dir/text1" "$dir/text4"; then ok same_bytes
else bad same_bytes "$(cat "$dir"/text?)"; fi

runs too_few_tokens 1 err 'more --tokens or fewer --prompt-tokens' $model --streams 8 --prompt-tokens 200 --tokens 8 --prefill-chunk 8
runs too_many_streams 2 err 'streams: ' $model --streams 65
runs no_model 2 err 'model' --streams 1
runs too_long 1 err 'was made for' $model --prompt-tokens 1000000
runs unknown_flag 2 err 'unknown flag --stream;' $model --stream 1
if mpirun --oversubscribe -n 1 "$CARAVAN" bench pipeline $model >"$dir/out" 2>"$dir/err"; then bad inside_mpirun "it ran"
elif grep -q 'launches its own ranks' "$dir/err"; then ok inside_mpirun; else bad inside_mpirun "$(cat "$dir/err")"; fi
exit $failed
