#!/usr/bin/env bash
# The command line from outside: exit codes, one-line errors, JSON, what is written where.
# $CARAVAN: the program. Prints one line per case in the form tests/run counts.
set -u
. "$(dirname "$0")/check.sh"
model=tests/golden/llama-gqa.f16.gguf

# refuses NAME RC PATTERN args...: exit code RC, nothing on stdout, one line that holds PATTERN.
refuses() {
  local name=$1 want=$2 pattern=$3 rc
  shift 3
  timeout 60 "$CARAVAN" "$@" >"$dir/out" 2>"$dir/err" </dev/null; rc=$?
  if [ $rc -ne "$want" ]; then bad "$name" "exit code $rc, expected $want: $(cat "$dir/err")"
  elif [ -s "$dir/out" ]; then bad "$name" "stdout: $(head -c 200 "$dir/out")"
  elif [ "$(wc -l <"$dir/err")" -ne 1 ] || ! grep -q '^caravan: ' "$dir/err"; then bad "$name" "not one line: $(cat "$dir/err")"
  elif ! grep -Eq -e "$pattern" "$dir/err"; then bad "$name" "said: $(cat "$dir/err")"
  else ok "$name"; fi
}

# runs NAME PATTERN args...: exit code 0, nothing on stderr, stdout holds PATTERN.
runs() {
  local name=$1 pattern=$2 rc
  shift 2
  timeout 120 "$CARAVAN" "$@" >"$dir/out" 2>"$dir/err" </dev/null; rc=$?
  if [ $rc -ne 0 ]; then bad "$name" "exit code $rc: $(cat "$dir/err")"
  elif [ -s "$dir/err" ]; then bad "$name" "stderr: $(cat "$dir/err")"
  elif ! grep -Eq -e "$pattern" "$dir/out"; then bad "$name" "stdout: $(head -c 300 "$dir/out")"
  else ok "$name"; fi
}

json() {
  runs "$@"
  command -v python3 >/dev/null || return
  if [ "$(wc -l <"$dir/out")" -eq 1 ] && python3 -m json.tool <"$dir/out" >/dev/null 2>&1; then ok "$1_is_json"
  else bad "$1_is_json" "$(head -c 300 "$dir/out")"; fi
}

same() { if cmp -s "$2" "$3"; then ok "$1"; else bad "$1" "$2 and $3 differ"; fi }

# ---- usage ----
runs help '^Usage: caravan COMMAND' --help
runs version '^caravan [0-9]' --version
for c in generate logits perplexity plan tokenize detokenize inspect devices tune bench config node; do
  runs "help_$c" '^[Uu]sage: caravan' $c --help
done
refuses no_command 2 'caravan --help'
refuses unknown_command 2 'did you mean generate' genrate
refuses unknown_flag 2 'did you mean --stages' generate $model --prompt a --stagse 2
refuses unknown_flag_far 2 '--help' generate $model --prompt a --frobnicate
refuses missing_value 2 'needs a value' generate $model --prompt
refuses bad_number 2 'found "12x"' generate $model --prompt a --stages 12x
refuses negative_number 2 'found "-1"' generate $model --prompt a --max-tokens -1
refuses overflow 2 '99999999999999999999' generate $model --prompt a --seed 99999999999999999999
refuses nan 2 'nan' generate $model --prompt a --temperature nan
refuses out_of_range 2 'from 0 to 1' generate $model --prompt a --top-p 1.5
refuses no_prompt 2 'one of --prompt' generate $model
refuses two_prompts 2 'one of --prompt' generate $model --prompt a --tokens 1
refuses two_models 2 'unexpected argument' generate $model $model --prompt a
refuses no_model 2 'no model' generate --prompt a
refuses bad_token 2 'from 0 to 83' generate $model --tokens 1,84
refuses bad_token_text 2 'found "x"' generate $model --tokens 1,x
refuses bad_token_end 2 'found ""' generate $model --tokens 1,
refuses bad_bias 2 'logit-bias' generate $model --tokens 1 --logit-bias 3
refuses bad_bias_token 2 'logit-bias' generate $model --tokens 1 --logit-bias 84=1
refuses too_many_stages 2 '2 layers' generate $model --tokens 1 --stages 3
refuses bad_grid 2 'not 5' plan $model --stages 2 --shards 2 --ranks 5
refuses no_out 2 'out is missing' logits $model --tokens 1
refuses bench_what 2 'bench --help' bench
refuses bench_unknown 2 'no bench "op"' bench op
refuses bench_flag 2 'unknown argument --form' bench ops --form Q8_0
refuses bench_value 2 '--rows needs a value' bench ops --rows
refuses bench_format 2 "formats.*'Q9'" bench ops --formats Q8_0,Q9
refuses bench_rows 2 '--rows.*from 1 to 4096' bench ops --rows 1,0
refuses bench_shape 2 '--shape: .*such as' bench ops --shape 64
refuses bench_unit 2 'multiples of 256' bench ops --formats Q4_K --shape 64x96
refuses bench_grids 2 '--grids: .*found "2-1"' bench generate $model --grids 1x1,2-1
refuses bench_prompt 2 '--prompt-tokens: .*found "0"' bench generate $model --prompt-tokens 0
refuses bench_generate_flag 2 'bench generate: unknown flag --grid; did you mean --grids' bench generate $model --grid 1x1
refuses no_file 2 'file is missing' perplexity $model

# ---- files ----
refuses missing_model 1 'cannot open|No such file' generate "$dir/none.gguf" --prompt a
refuses model_is_folder 1 'directory' generate "$dir" --prompt a
head -c 1000 $model >"$dir/cut.gguf"
refuses truncated_model 1 'cut.gguf' generate "$dir/cut.gguf" --prompt a
echo hello >"$dir/text.gguf"
refuses not_a_model 1 'text.gguf' plan "$dir/text.gguf"
refuses missing_prompt_file 1 'none.txt' generate $model --prompt-file "$dir/none.txt"
refuses missing_config 1 'none.cfg' generate $model --prompt a --config "$dir/none.cfg"
printf 'stages = 1;\nstagse = 2;\n' >"$dir/bad.cfg"
refuses bad_config 1 'bad.cfg:2: unknown key stagse' generate $model --prompt a --config "$dir/bad.cfg"
refuses bench_too_long 1 'the model was made for 80' bench generate $model --prompt-tokens 70 --tokens 11
refuses out_not_writable 1 'none' logits $model --tokens 1 --out "$dir/none/x"
refuses missing_text 1 'none.txt' perplexity $model --file "$dir/none.txt"

# ---- limits ----
long=$(seq -s, 1 80)
refuses prompt_beyond_context 1 'the prompt has 80 tokens, the context 80' generate $model --tokens "$long"
refuses context_beyond_model 1 'made for 80' generate $model --tokens 1 --context 81
refuses text_too_short 1 'fewer than a window' perplexity $model --file "$dir/text.gguf" --context 32
refuses no_launcher 1 'cannot start /none/mpirun' generate $model --tokens 1 --mpirun /none/mpirun
refuses launcher_fails 1 'the launcher false ended with exit code 1' generate $model --tokens 1 --mpirun false
refuses no_device 1 'no such device at all' generate $model --tokens 1 --device 'no such device at all'
runs plan_fits '1 stages x 1 shards' plan $model --memory-mb 4
"$CARAVAN" plan $model --memory-mb 1 --prefill-chunk 2000 >"$dir/out" 2>"$dir/err"
[ $? -eq 1 ] && grep -q 'needs .* on rank 0 .* missing' "$dir/err" && ok plan_refuses_memory ||
  bad plan_refuses_memory "$(cat "$dir/err")"

# ---- work ----
json generate_json '"finish_reason": "length"' generate $model --tokens 1,2,3 --max-tokens 5 --json
grep -q '"prompt_tokens": \[1, 2, 3\]' "$dir/out" && ok generate_prompt_tokens || bad generate_prompt_tokens "$(cat "$dir/out")"
runs generate_text '.' generate $model --prompt 'the man' --max-tokens 5
# PoCL hides its device where it cannot keep kernels; TMPDIR then holds them.
HOME=/proc TMPDIR=$dir runs home_not_writable '.' generate $model --prompt 'the man' --max-tokens 2
runs generate_sampled_seed '"seed": [0-9]+' generate $model --tokens 1,2 --max-tokens 3 --temperature 1 --json --reference
printf 'stages = 2;\nmax_tokens = 5;\nmodel = "%s";\n' $model >"$dir/good.cfg"
runs config_is_read '"stages": 2' generate --tokens 1,2,3 --json --config "$dir/good.cfg"
runs flag_wins '"stages": 1' generate --tokens 1,2,3 --json --config "$dir/good.cfg" --stages 1
runs bias_forbids '"tokens": \[7, 7, 7\]' generate $model --tokens 1,2 --max-tokens 3 --logit-bias 7=10000 --json --reference
json bench_ops_json '"format": "Q4_0", "shape": "64x96", "out": 64, "in": 96, "context": null, "rows": 3, "us": [0-9.e-]+, ' \
  bench ops --formats Q4_0,F16 --shape 64x96 --rows 1,3 --json
json bench_generate_json '"stages": 2, "shards": 1, "prompt_tokens": 9, "is_context": false, "load_s": [0-9.e-]+, "prefill_tokens_per_s": ' \
  bench generate $model --grids 1x1,2x1 --prompt-tokens 3,9 --tokens 4 --repeat 1 --reference --json
runs help_bench_generate '^Usage: caravan bench generate' bench generate --help
runs help_bench_ops '^Usage: caravan bench ops' bench ops --help
json plan_kv_tokens '"kv_tokens": 8192' plan $model --kv-tokens 8190 --json
refuses plan_kv_tokens_few 2 'one text alone may take' plan $model --kv-tokens 32
json plan_json '"stages": 2' plan $model --stages 2 --shards 2 --json
runs plan_program 'attend' plan $model --program
"$CARAVAN" config --example >"$dir/example.cfg" && cmp -s "$dir/example.cfg" configs/example.cfg &&
  ok example_is_current || bad example_is_current "caravan config --example > configs/example.cfg"

tokens=$(cut -d, -f1-40 tests/golden/llama-gqa.tokens | head -1)
runs logits '' logits $model --tokens "$tokens" --out "$dir/a" --reference --json
runs logits_pieces '' logits $model --tokens "$tokens" --out "$dir/b" --reference --stages 2 --prefill-chunk 7 --json
same logits_same "$dir/a" "$dir/b"
[ "$(stat -c %s "$dir/a")" -eq $((40 * 84 * 4)) ] && ok logits_size || bad logits_size "$(stat -c %s "$dir/a")"
[ "$(ls "$dir" | grep -c part)" -eq 0 ] && ok logits_no_part || bad logits_no_part "$(ls "$dir")"
head -c 3000 models/heldout.txt >"$dir/text"
json perplexity_json '"n_windows"' perplexity $model --file "$dir/text" --context 32 --reference --json
sed 's/"seconds": [^,]*, //' "$dir/out" >"$dir/p1"
runs perplexity_pieces '' perplexity $model --file "$dir/text" --context 32 --reference --json --prefill-chunk 5
sed 's/"seconds": [^,]*, //' "$dir/out" >"$dir/p2"
same perplexity_same "$dir/p1" "$dir/p2"

# A reader that leaves early: an error of ours at most, never a hang.
timeout 60 "$CARAVAN" generate $model --prompt 'the man' --max-tokens 40 --reference 2>/dev/null | head -c 1 >/dev/null
[ "${PIPESTATUS[0]}" -le 1 ] && ok early_reader || bad early_reader "exit code ${PIPESTATUS[0]}"

# ---- inside an MPI launch ----
# srun without an MPI plugin: every copy refuses, the first one says why.
export SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=0
refuses srun_copies 2 'srun --mpi=pmix' generate $model --tokens 1
SLURM_PROCID=1 "$CARAVAN" generate $model --tokens 1 >"$dir/out" 2>&1; rc=$?
[ $rc -eq 2 ] && [ ! -s "$dir/out" ] && ok srun_other_copies || bad srun_other_copies "$rc $(cat "$dir/out")"
unset SLURM_STEP_NUM_TASKS SLURM_PROCID
if command -v mpirun >/dev/null; then
  inside() { timeout 120 mpirun --oversubscribe --bind-to none -n 2 "$CARAVAN" "$@" >"$dir/out" 2>"$dir/err" </dev/null; }
  inside generate $model --tokens 1,2,3 --max-tokens 5 --json --reference; rc=$?
  [ $rc -eq 0 ] && grep -q '"stages": 2' "$dir/out" && [ "$(wc -l <"$dir/out")" -eq 1 ] &&
    ok inside_generate || bad inside_generate "$rc $(cat "$dir/err")"
  inside generate $model --frob; rc=$?
  [ $rc -eq 2 ] && [ "$(grep -c '^caravan: ' "$dir/err")" -eq 1 ] && ok inside_usage || bad inside_usage "$rc $(cat "$dir/err")"
  inside generate "$dir/none.gguf" --prompt a; rc=$?
  [ $rc -eq 1 ] && [ "$(grep -c '^caravan: ' "$dir/err")" -eq 1 ] && ok inside_failure || bad inside_failure "$rc $(cat "$dir/err")"
  inside plan $model; rc=$?
  [ $rc -eq 0 ] && [ "$(grep -c stages "$dir/out")" -eq 1 ] && ok inside_plan || bad inside_plan "$rc $(cat "$dir/err")"
  inside --help; rc=$?
  [ $rc -eq 0 ] && [ "$(grep -c '^Usage' "$dir/out")" -eq 1 ] && ok inside_help || bad inside_help "$rc $(cat "$dir/err")"
fi
exit $failed
