#!/usr/bin/env bash
# Bad input from outside: truncated, bit-flipped and hostile model files through every command,
# wrong requests, missing devices. Every failure must be exit code 1 or 2, one line on stderr that
# begins "caravan: ", nothing on stdout, soon, and no process left.
# Warnings of the log ("caravan warning ...") may come before.
# $CARAVAN: the program, best also a build with SAN=1. $FLIPS: random damages (300).
# Prints one line per case in the form tests/run counts.
set -u
. "$(dirname "$0")/check.sh"
FLIPS=${FLIPS:-300}
# Whatever a sanitizer finds, in whichever process, is written to a file.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:log_path=$dir/sanitizer
export UBSAN_OPTIONS=print_stacktrace=1:log_path=$dir/sanitizer
# The job's socket is here, and so in the arguments of every process of the job.
mkdir "$dir/tmp"
export TMPDIR=$dir/tmp

# What is wrong with how a command ended: rc, $dir/out, $dir/err; empty if nothing.
complaint() {
  local rc=$1 n
  n=$(grep -acv '^caravan warning ' "$dir/err")
  if ls "$dir"/sanitizer* >/dev/null 2>&1; then
    cat "$dir"/sanitizer* | head -30
    rm -f "$dir"/sanitizer*
  elif [ "$rc" -eq 124 ] || [ "$rc" -eq 137 ]; then echo "took longer than $limit s"
  elif [ "$rc" -gt 2 ]; then echo "exit code $rc: $(head -c 300 "$dir/err")"
  elif [ "$rc" -eq 0 ] && [ "$n" -ne 0 ]; then echo "exit code 0, said: $(head -c 300 "$dir/err")"
  elif [ "$rc" -ne 0 ] && [ -s "$dir/out" ]; then echo "exit code $rc, stdout: $(head -c 300 "$dir/out")"
  elif [ "$rc" -ne 0 ] && { [ "$n" -ne 1 ] || ! grep -aq '^caravan: ' "$dir/err"; }; then
    echo "exit code $rc, not one line: $(head -c 500 "$dir/err")"
  fi
}

limit=60
call() { timeout -k 2 $limit "$CARAVAN" "$@" >"$dir/out" 2>"$dir/err" </dev/null; }

# refuses NAME PATTERN args...: must fail, and say PATTERN.
refuses() {
  local name=$1 pattern=$2 rc wrong
  shift 2
  call "$@"; rc=$?
  wrong=$(complaint $rc)
  if [ -n "$wrong" ]; then bad "$name" "$wrong"
  elif [ $rc -eq 0 ]; then bad "$name" "accepted: $(head -c 200 "$dir/out")"
  elif ! grep -aEq -e "$pattern" "$dir/err"; then bad "$name" "said: $(cat "$dir/err")"
  else ok "$name"; fi
}

# Every command on one file: the files that are checked before anything starts.
: >"$dir/empty"
printf 'the man and the hat in the inn\n' >"$dir/text"
commands=(plan inspect tokenize detokenize generate logits perplexity)
declare -A arguments=(
  [plan]="--json" [inspect]="--json" [tokenize]="--text the --json" [detokenize]="--tokens 3,4 --json"
  [generate]="--tokens 1,2,3 --max-tokens 2 --json" [logits]="--tokens 1,2,3 --json --out $dir/logits"
  [perplexity]="--file $dir/text --context 8 --json")

# broken NAME FILE [COMMAND...]: refused by all commands (or those given).
broken() {
  local name=$1 file=$2 c rc wrong bad=
  shift 2
  [ $# -gt 0 ] || set -- "${commands[@]}"
  for c in "$@"; do
    call "$c" "$file" ${arguments[$c]}; rc=$?
    wrong=$(complaint $rc)
    [ -z "$wrong" ] && [ $rc -eq 0 ] && wrong="accepted: $(head -c 100 "$dir/out")"
    [ -z "$wrong" ] && ! grep -aq "${file##*/}" "$dir/err" && wrong="does not name the file: $(cat "$dir/err")"
    [ -n "$wrong" ] && bad="$bad$c: $wrong; "
  done
  if [ -n "$bad" ]; then bad "$name" "$bad"; else ok "$name"; fi
}

# survives NAME FILE COMMAND...: may be accepted or refused, but well.
survives() {
  local name=$1 file=$2 c rc wrong bad=
  shift 2
  for c in "$@"; do
    call "$c" "$file" ${arguments[$c]}; rc=$?
    wrong=$(complaint $rc)
    [ -n "$wrong" ] && bad="$bad$c: $wrong; "
  done
  if [ -n "$bad" ]; then bad "$name" "$bad"; else ok "$name"; fi
}

# ---- files made by hand ----
le() { # N BYTES: little endian
  local i n=$1
  for ((i = 0; i < $2; i++)); do printf "\\x$(printf %02x $(((n >> (8 * i)) & 255)))"; done
}
u32() { le "$1" 4; }
u64() { le "$1" 8; }
str() { u64 ${#1}; printf %s "$1"; }
kv_str() { str "$1"; u32 8; str "$2"; }
kv_u32() { str "$1"; u32 4; u32 "$2"; }
tensor() { # NAME FORMAT OFFSET DIM...
  str "$1"; u32 $(($# - 3))
  local d f=$2 o=$3; shift 3
  for d in "$@"; do u64 "$d"; done
  u32 "$f"; u64 "$o"
}
header() { printf GGUF; u32 "${3:-3}"; u64 "$1"; u64 "$2"; } # N_TENSORS N_KV [VERSION]
make() { cat >"$dir/$1.gguf"; } # NAME: the file from standard input
pad() { head -c "$1" /dev/zero; }
huge=$((1 << 60)) most=-1 # -1: 2^64 - 1

: | make empty
printf GGUF | make magic_only
printf 'FUGG' | cat - <(pad 60) | make wrong_magic
header 0 0 1 | make version_1
header 0 0 4 | make version_4
{ printf GGUF; printf '\0\0\0\3'; pad 64; } | make big_endian
{ header $huge 1; kv_str general.architecture llama; } | make n_tensors_huge
{ header 1 $huge; kv_str general.architecture llama; } | make n_kv_huge
{ header $most $most; pad 64; } | make counts_all_ones
{ header 0 1; u64 $most; pad 64; } | make key_length_all_ones
{ header 0 1; str k; u32 8; u64 $((1 << 62)); pad 64; } | make string_length_huge
{ header 0 1; str k; u32 9; u32 4; u64 $huge; pad 64; } | make array_length_huge
{ header 0 1; str k; u32 9; u32 8; u64 $((1 << 40)); pad 64; } | make array_of_strings_huge
{ header 0 1; str k; for i in {1..4000}; do printf '\11\0\0\0'; [ "$i" -gt 1 ] && printf '\1\0\0\0\0\0\0\0'; done; } | make array_nested_deep
{ header 0 1; str k; u32 99; pad 64; } | make value_type_99
{ header 0 1; str k; u32 9; u32 99; u64 1; pad 64; } | make array_type_99
{ header 0 2; kv_u32 k 1; kv_u32 k 2; } | make key_twice
{ header 0 1; kv_u32 '' 1; } | make key_empty
{ header 0 1; kv_u32 general.architecture 7; } | make architecture_is_a_number
{ header 0 1; kv_str general.architecture ''; } | make architecture_empty
{ header 0 1; kv_str general.architecture "$(printf 'a\nb\033[31m%%s%%n')"; } | make architecture_with_controls
{ header 0 1; kv_str general.architecture "$(pad 5000 | tr '\0' x)"; } | make architecture_long
{ header 0 1; kv_str general.architecture nosuch; } | make architecture_unknown
{ header 0 1; kv_str general.architecture llama; } | make architecture_alone
for a in 0 3 7 2147483648 4294967295; do
  { header 0 2; kv_str general.architecture llama; kv_u32 general.alignment $a; pad 64; } | make alignment_$a
done
one() { header 1 1; kv_str general.architecture llama; "$@"; pad 4096; } # one tensor
one tensor t 0 $huge 32 | make tensor_offset_past_end
one tensor t 0 $((most - 31)) 32 | make tensor_offset_wraps
one tensor t 0 1 32 | make tensor_offset_unaligned
one tensor t 0 0 $huge | make tensor_elements_huge
one tensor t 0 0 $((1 << 32)) $((1 << 32)) | make tensor_product_overflows
one tensor t 0 0 $most | make tensor_dimension_negative
one tensor t 0 0 0 | make tensor_dimension_zero
one tensor t 8 0 33 | make tensor_row_no_whole_block
one tensor t 99 0 32 | make tensor_format_99
one tensor t 4 0 32 | make tensor_format_gone
one tensor t 0 0 1 1 1 1 1 | make tensor_5_dimensions
{ header 1 1; kv_str general.architecture llama; str t; u32 $most; pad 4096; } | make tensor_dimensions_all_ones
{ header 2 1; kv_str general.architecture llama; tensor t 0 0 32; tensor t 0 128 32; pad 4096; } | make tensor_twice
{ header 1 1; kv_str general.architecture llama; u64 $most; pad 4096; } | make tensor_name_length
one tensor "$(printf 't\n\033[2Jx')" 0 $huge 32 | make tensor_name_with_controls
{ header 0 4; kv_str general.architecture llama; str split.no; u32 2; le 0 2; str split.count; u32 2; le 65535 2
  str split.tensors.count; u32 5; u32 $most; pad 64; } | make split_of_65535
broken missing_file "$dir/none.gguf"
mkdir "$dir/folder.gguf"
broken folder "$dir/folder.gguf"
mkfifo "$dir/fifo.gguf"
broken fifo "$dir/fifo.gguf"
broken device_file /dev/null
for f in "$dir"/*.gguf; do
  [ -f "$f" ] || continue
  name=$(basename "$f" .gguf)
  case $name in
    architecture_*) broken "$name" "$f" plan generate logits perplexity
      survives "${name}_looked_at" "$f" inspect tokenize detokenize;;
    alignment_*|tensor_dimension_zero|key_empty) survives "$name" "$f" "${commands[@]}";;
    *) broken "$name" "$f";;
  esac
  rm -f "$f"
done
{ header 0 1; kv_str general.architecture nosuch; } | make nosuch
refuses says_which_architecture "nosuch" plan "$dir/nosuch.gguf"

# ---- a good file, damaged ----
good=tests/golden/llama-gqa.f16.gguf
size=$(stat -c %s $good)
for n in 3 23 24 100 1000 4000 $((size / 2)) $((size - 1)); do
  head -c "$n" $good >"$dir/cut_$n.gguf"
  broken "cut_at_$n" "$dir/cut_$n.gguf"
done

# patch FILE OFFSET: bytes from standard input.
patch() { dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }
# value_at FILE KEY: offset of the key's value.
value_at() {
  local at
  at=$(LC_ALL=C grep -abo -F "$2" "$1" | head -1 | cut -d: -f1)
  echo $((at + ${#2} + 4))
}
for key in context_length embedding_length block_count feed_forward_length attention.head_count_kv \
  attention.layer_norm_rms_epsilon rope.freq_base attention.key_length rope.dimension_count; do
  at=$(value_at $good "llama.$key")
  # 0, 1, odd, 2^31, 2^32 - 1, and nan for those that are floats.
  for v in 0 1 7 2147483648 4294967295 2143289344; do
    cp $good "$dir/patched.gguf"
    u32 $v | patch "$dir/patched.gguf" "$at"
    survives "${key}_is_$v" "$dir/patched.gguf" plan
    # What passes the plan must run, or be refused, too.
    [ -s "$dir/err" ] || survives "${key}_is_${v}_runs" "$dir/patched.gguf" generate
  done
done
for key in tokenizer.ggml.bos_token_id tokenizer.ggml.eos_token_id; do
  at=$(value_at $good $key)
  for v in 84 4294967295; do
    cp $good "$dir/patched.gguf"
    u32 $v | patch "$dir/patched.gguf" "$at"
    survives "${key##*.}_is_$v" "$dir/patched.gguf" tokenize detokenize generate
  done
done
# Weights may be anything: infinite and not-a-number logits must not hurt.
cp $good "$dir/patched.gguf"
pad 8000 | tr '\0' '\377' | patch "$dir/patched.gguf" $((size - 70000))
survives weights_not_a_number "$dir/patched.gguf" generate logits perplexity
arguments[generate]="--tokens 1,2,3 --max-tokens 4 --temperature 1 --top-k 5 --top-p 0.9 --min-p 0.1 --seed 1 --json"
survives weights_not_a_number_sampled "$dir/patched.gguf" generate

# ---- random damage ----
RANDOM=7
flips=0 runs=0 passed=0 wrong=
for model in tests/golden/llama-gqa.f16.gguf tests/golden/llama-kquants.mixed.gguf tests/golden/gpt2.f16.gguf; do
  size=$(stat -c %s $model)
  # The header ends before the tensors' data: of these small files the first 5000 bytes or so.
  head=$(LC_ALL=C grep -abo -F "blk.0.attn_norm.weight" $model | head -1 | cut -d: -f1)
  for ((i = 0; i < FLIPS / 3; i++)); do
    f=$dir/flip.gguf
    if ((i % 5 == 4)); then
      n=$(((RANDOM * 32768 + RANDOM) % size))
      ((i % 2)) && n=$((n % (head + 2000)))
      head -c $n $model >"$f"
      what="cut at $n"
    else
      cp $model "$f"
      what=
      for ((k = 0; k <= i % 3; k++)); do
        at=$(((RANDOM * 32768 + RANDOM) % (head + 1000))) bit=$((RANDOM % 8))
        byte=$(od -An -tu1 -j $at -N 1 "$f")
        le $((byte ^ (1 << bit))) 1 | patch "$f" $at
        what="$what byte $at bit $bit,"
      done
    fi
    flips=$((flips + 1))
    call plan "$f" --json; rc=$?
    c=$(complaint $rc)
    if [ -z "$c" ] && [ $rc -eq 0 ]; then
      passed=$((passed + 1))
      call tokenize "$f" --text 'the man' --json
      c=$(complaint $?)
      if [ -z "$c" ] && ((passed % 12 == 1)); then
        runs=$((runs + 1))
        call logits "$f" ${arguments[logits]}
        c=$(complaint $?)
      fi
    fi
    [ -n "$c" ] && { wrong=1; bad "random_damage" "$model: $what $c"; }
  done
done
[ -z "$wrong" ] && [ $flips -gt 0 ] && [ $runs -gt 0 ] && ok random_damage
echo "  $flips damaged files, $passed of them accepted by plan, $runs computed"

# ---- requests ----
limit=30
refuses no_such_device 'nosuchthing' generate $good --tokens 1,2 --json --device nosuchthing
refuses no_such_device_on_4_ranks 'nosuchthing' logits $good --tokens 1,2 --out "$dir/logits" --device nosuchthing --stages 2 --shards 2
refuses prompt_beyond_context 'the context 80' generate $good --tokens "$(seq -s, 1 80)" --json
refuses prompt_beyond_asked_context 'the context 8' generate $good --tokens "$(seq -s, 1 8)" --json --context 8
refuses logits_beyond_context 'context' logits $good --tokens "$(yes 1 | head -81 | paste -sd,)" --json --out "$dir/logits"
refuses token_outside_vocabulary 'from 0 to 83' logits $good --tokens 1,84 --json --out "$dir/logits"
refuses token_negative '"?-1' generate $good --tokens 1,-1 --json
refuses token_huge '99999999999999999999' generate $good --tokens 99999999999999999999 --json
refuses detokenize_outside '84' detokenize $good --tokens 84 --json
refuses tokens_empty '' logits $good --tokens '' --json --out "$dir/logits"
refuses prompt_file_is_folder '' generate $good --prompt-file "$dir" --json
refuses prompt_file_missing 'none' generate $good --prompt-file "$dir/none" --json
refuses perplexity_file_missing 'none' perplexity $good --file "$dir/none" --json
refuses perplexity_file_empty '' perplexity $good --file "$dir/empty" --json
refuses out_is_folder '' logits $good --tokens 1,2 --json --out "$dir"
refuses config_missing 'none' generate $good --tokens 1 --json --config "$dir/none"
refuses config_is_binary "${good##*/}" generate $good --tokens 1 --json --config $good
refuses ranks_contradict '' plan $good --stages 2 --shards 2 --ranks 3 --json
refuses shards_huge '' plan $good --shards 4000000000 --json
refuses stages_huge '' generate $good --tokens 1 --stages 4000000000 --json
refuses context_huge '' generate $good --tokens 1 --context 4000000000 --json
refuses threads_negative '-3' generate $good --tokens 1 --threads -3 --json
refuses flag_unknown '--help|mean' generate $good --tokens 1 --nosuchflag --json
refuses value_missing 'value' plan $good --stages
refuses hosts_missing '' generate $good --tokens 1 --json --hosts "$dir/none"
refuses launcher_missing 'none' generate $good --tokens 1 --json --mpirun "$dir/none"
printf '\377\376\200the \360\237 man' >"$dir/no_utf8"
survives_text() { call "$@"; local w; w=$(complaint $?); [ -z "$w" ] && ok "$name" || bad "$name" "$w"; }
name=text_no_utf8 survives_text tokenize $good --file "$dir/no_utf8" --json
name=prompt_no_utf8 survives_text generate $good --prompt-file "$dir/no_utf8" --max-tokens 2 --json

# ---- nothing is left ----
sleep 1
left=$(pgrep -f "$dir" | grep -vx $$)
[ -z "$left" ] && ok no_process_left || bad no_process_left "$(ps -o pid,args -p "$(echo $left | tr ' ' ,)")"
[ -z "$(ls "$dir/tmp")" ] && ok no_socket_left || bad no_socket_left "$(ls "$dir/tmp")"
exit $failed
