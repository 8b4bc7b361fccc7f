#!/usr/bin/env bash
# The demo model from outside: what it answers, on one rank and on four, and
# its held-out perplexity against the figure of the engine that trained it.
set -u
. "$(dirname "$0")/check.sh"
model=models/demo.gguf
ask() { "$CARAVAN" generate $model --prompt "<|user|>$1<|end|><|assistant|>" "${@:2}" 2>&1; }
answers() { # QUESTION ANSWER [FLAG...]
  local got
  got=$(ask "$1" "${@:3}")
  [ "$got" = "$2" ] || { echo "'$1' gives '$got'"; return 1; }
}
violin="A violin is a bowed stringed instrument that is the highest member of the violin family."
check violin_on_one_rank answers "What is a violin?" "$violin"
check violin_on_four_ranks answers "What is a violin?" "$violin" --stages 2 --shards 2
check violin_on_three_shards answers "What is a violin?" "$violin" --shards 3
check capital_of_france answers "What is the capital of France?" "The capital of France is Paris." --stages 2

# The trained weights' own perplexity, of Q8_0 weights in float arithmetic.
expected=$(sed -n 's/.*"perplexity": \([0-9.]*\).*/\1/p' models/demo.json)
got=$("$CARAVAN" perplexity $model --file models/heldout.txt --context 512 --json |
  sed -n 's/.*"perplexity": \([0-9.]*\).*/\1/p')
echo "held-out perplexity $got, recorded $expected"
check perplexity_within_one_percent awk -v a="$got" -v b="$expected" \
  'BEGIN { r = a / b; exit !(r > 0.99 && r < 1.01) }'
check other_text_is_worse awk -v a="$("$CARAVAN" perplexity $model --file LICENSE --context 512 --json |
  sed -n 's/.*"perplexity": \([0-9.]*\).*/\1/p')" -v b="$expected" 'BEGIN { exit !(a > 3 * b) }'
exit $failed
