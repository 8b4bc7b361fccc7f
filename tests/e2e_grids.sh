#!/usr/bin/env bash
# The same tokens and the same logits bytes for every grid, every chunking of the prompt, every
# launch and every OpenCL implementation that is present.
# $CARAVAN: the program. Prints one line per case in the form tests/run counts.
set -u
. "$(dirname "$0")/check.sh"
top=$dir
# In whichever process the case ran.
bad() { echo "[  FAILED  ] $1"; echo "  $2"; touch "$top/failed"; }

# same NAME EXPECTED FOUND: two files, not empty.
same() {
  if [ -s "$2" ] && cmp -s "$2" "$3"; then ok "$1"
  else bad "$1" "$(head -c 300 "$dir/err") | expected $(head -c 300 "$2" | tr -cd ' -~') | found $(head -c 300 "$3" | tr -cd ' -~')"; fi
}

# tokens OUT command...: the "tokens" of generate's JSON, separated by commas.
tokens() {
  local out=$1
  shift
  timeout 240 "$@" --json >"$dir/json" 2>"$dir/err" </dev/null
  sed -n 's/.*"tokens": \[\([0-9, ]*\)\], "text".*/\1/p' "$dir/json" | tr -d ' ' >"$out"
}

logits() {
  local out=$1
  shift
  rm -f "$out"
  timeout 240 "$@" --out "$out" >"$dir/json" 2>"$dir/err" </dev/null
}

grids="1x1 2x1 1x2 2x2 1x3 3x1 1x4 4x1 3x2"
sampled="--temperature 0.9 --top-k 40 --top-p 0.95 --seed 7 --repeat-penalty 1.1"

check_model() {
  local file=$1 model=tests/golden/$1.gguf name=${1%%.*}
  local dir=$top/$name prompt short next generate grid cut chunk
  mkdir "$dir"
  prompt=$(head -1 tests/golden/$name.tokens)
  short=$(echo "$prompt" | cut -d, -f1-15)
  next=$(tr -d ' \n' <tests/golden/$name.next)
  generate="$CARAVAN generate $model --tokens $short --max-tokens 64 --ignore-eos"

  # What everything is compared with: plain C, one rank, the prompt in one piece.
  logits "$dir/logits" "$CARAVAN" logits $model --tokens "$prompt" --reference
  [ "$(stat -c %s "$dir/logits" 2>/dev/null)" = $((4 * 84 * $(echo "$prompt" | tr ',' '\n' | wc -l))) ] &&
    ok "${name}_size" || bad "${name}_size" "$(cat "$dir/err")"
  tokens "$dir/greedy" $generate --reference
  [ "$(tr ',' '\n' <"$dir/greedy" | wc -l)" -eq 64 ] && ok "${name}_64_tokens" || bad "${name}_64_tokens" "$(cat "$dir/err" "$dir/greedy")"
  tokens "$dir/sampled" $generate $sampled --reference
  ! cmp -s "$dir/greedy" "$dir/sampled" && ok "${name}_sampling_samples" || bad "${name}_sampling_samples" "as greedy"
  echo "$next" >"$dir/next"
  tokens "$dir/found" "$CARAVAN" generate $model --tokens "$prompt" --max-tokens "$(echo "$next" | tr ',' '\n' | wc -l)" --ignore-eos
  same "${name}_golden_next" "$dir/next" "$dir/found"

  chunk=7
  for grid in $grids; do
    cut="--stages ${grid%x*} --shards ${grid#*x}"
    tokens "$dir/found" $generate $cut
    same "${name}_${grid}_greedy" "$dir/greedy" "$dir/found"
    tokens "$dir/found" $generate $sampled $cut --prefill-chunk 7
    same "${name}_${grid}_sampled_pieces_of_7" "$dir/sampled" "$dir/found"
    logits "$dir/found" "$CARAVAN" logits $model --tokens "$prompt" $cut --prefill-chunk $chunk
    same "${name}_${grid}_logits_pieces_of_$chunk" "$dir/logits" "$dir/found"
    case $chunk in 7) chunk=128;; 128) chunk=1;; *) chunk=7;; esac
  done
  for chunk in 1 128; do
    logits "$dir/found" "$CARAVAN" logits $model --tokens "$prompt" --prefill-chunk $chunk
    same "${name}_1x1_logits_pieces_of_$chunk" "$dir/logits" "$dir/found"
  done
  tokens "$dir/found" $generate --stages 2 --shards 2 --prefill-chunk 1
  same "${name}_2x2_greedy_pieces_of_1" "$dir/greedy" "$dir/found"
  tokens "$dir/found" mpirun --oversubscribe --bind-to none -n 4 $generate $sampled --stages 2 --shards 2
  same "${name}_2x2_inside_mpirun" "$dir/sampled" "$dir/found"
  logits "$dir/found" "$CARAVAN" logits $model --tokens "$prompt" --stages 2 --shards 2 --reference
  same "${name}_2x2_reference" "$dir/logits" "$dir/found"

  # Another compiler and another interpreter of the same kernels.
  if RUSTICL_ENABLE=llvmpipe "$CARAVAN" devices 2>/dev/null | grep -q '^rusticl'; then
    export RUSTICL_ENABLE=llvmpipe
    logits "$dir/found" "$CARAVAN" logits $model --tokens "$prompt" --device rusticl
    same "${name}_1x1_rusticl" "$dir/logits" "$dir/found"
    cut -d, -f1-6 "$dir/sampled" >"$dir/sampled6"
    tokens "$dir/found" $generate $sampled --stages 1 --shards 2 --device rusticl --max-tokens 6
    same "${name}_1x2_rusticl" "$dir/sampled6" "$dir/found"
    unset RUSTICL_ENABLE
  fi
  if command -v oclgrind >/dev/null; then
    # 4 tokens; the log holds races and accesses out of bounds.
    head -c $((4 * 84 * 4)) "$dir/logits" >"$dir/logits4"
    logits "$dir/found" oclgrind --data-races --log "$dir/oclgrind" "$CARAVAN" logits $model \
      --tokens "$(echo "$prompt" | cut -d, -f1-4)" --device Oclgrind
    same "${name}_1x1_oclgrind" "$dir/logits4" "$dir/found"
    [ ! -s "$dir/oclgrind" ] && ok "${name}_oclgrind_finds_nothing" || bad "${name}_oclgrind_finds_nothing" "$(head -20 "$dir/oclgrind")"
  fi
}

# One model for each of two cores.
check_model llama-shards.f16 >"$top/first" &
check_model llama-shards-q4.q4_0
wait
cat "$top/first"
[ ! -e "$top/failed" ]
