#!/usr/bin/env bash
# Where ranks get the model's slices from: one file, copies of it, rank 0. The tokens are the same.
# $CARAVAN: the program. Prints one line per case in the form tests/run counts. Root is needed to hide the file
# from some ranks (a mount namespace of their own); without, those cases are skipped.
set -u
. "$(dirname "$0")/check.sh"
mkdir "$dir/models" "$dir/other" "$dir/cache"
model=$dir/models/model.gguf
cp tests/golden/llama-shards-q4.q4_0.gguf "$model"
tokens="--tokens $(head -1 tests/golden/llama-shards-q4.tokens | cut -d, -f1-15) --max-tokens 24 --ignore-eos"

# generate OUT FLAGS...: the tokens of an answer, and the whole of it in $dir/json
generate() {
  local out=$1
  shift
  timeout 120 "$CARAVAN" generate "$model" $tokens --json "$@" >"$dir/json" 2>"$dir/err" </dev/null
  rc=$?
  sed -n 's/.*"tokens": \[\([0-9, ]*\)\], "text".*/\1/p' "$dir/json" | tr -d ' ' >"$out"
}
same() { if [ -s "$2" ] && cmp -s "$2" "$3"; then ok "$1"; else bad "$1" "$(cat "$2" "$3" "$dir/err")"; fi; }
# says NAME RC PATTERN: the last generate ended with RC and one line like that
says() { if [ $rc = "$2" ] && [ "$(wc -l <"$dir/err")" = 1 ] && grep -Eq "$3" "$dir/err"; then ok "$1"; else bad "$1" "rc $rc: $(cat "$dir/err")"; fi; }

# As mpirun, but every rank beyond the first sees $other in place of the models' folder.
cat >"$dir/mpirun" <<'END'
#!/usr/bin/env bash
args=()
for a; do
  case $a in */caravan) args+=("$HIDE");; esac
  args+=("$a")
done
exec mpirun "${args[@]}"
END
cat >"$dir/hide" <<'END'
#!/bin/sh
[ "$OMPI_COMM_WORLD_RANK" = 0 ] && exec "$@"
exec unshare -m sh -c 'mount --bind "$OTHER" "$MODELS" && exec "$@"' sh "$@"
END
chmod +x "$dir/mpirun" "$dir/hide"
export HIDE=$dir/hide OTHER=$dir/other MODELS=$dir/models
can_hide() { [ "$(id -u)" = 0 ] && unshare -m mount --bind "$OTHER" "$MODELS" 2>/dev/null; }

# number NAME: the sum of all numbers of that name in the last answer
number() { grep -o "\"$1\": [0-9]*" "$dir/json" | awk '{ sum += $2 } END { printf "%d", sum }'; }

generate "$dir/expected"
[ "$(tr ',' '\n' <"$dir/expected" | wc -l)" = 24 ] && ok one_rank || bad one_rank "$(cat "$dir/err")"

generate "$dir/found" --weights sent
says unknown_way 2 'weights is "sent", expected shared, local or send'
"$CARAVAN" serve "$model" --check --weights sent >"$dir/out" 2>"$dir/err"
rc=$?
says unknown_way_to_serve 2 'weights is "sent", expected shared, local or send'

# The cache of packed slices: filled, read, repaired; for other grids, too.
kept="--cache-dir $dir/cache --cache-gb 1"
generate "$dir/found" --stages 2 --weights send $kept
same cache_filled "$dir/expected" "$dir/found"
sent=$(number bytes_streamed)
generate "$dir/found" --stages 2 --weights send $kept
same cache_read "$dir/expected" "$dir/found"
[ "$(number bytes_from_cache)" -gt 100000 ] && [ "$(number bytes_streamed)" -lt $((sent / 10)) ] &&
  ok cache_saves_the_wire || bad cache_saves_the_wire "$sent sent, then $(number bytes_streamed)"
generate "$dir/found" --shards 2 $kept
same cache_other_grid "$dir/expected" "$dir/found"
generate "$dir/found" --shards 2 --reference $kept
same cache_plain_c "$dir/expected" "$dir/found"
for file in "$dir"/cache/*.slice; do # past the head: a byte of a part
  printf '\252' | dd of="$file" bs=1 seek=$(($(stat -c %s "$file") - 777)) conv=notrunc 2>/dev/null
done
generate "$dir/found" --stages 2 --weights send $kept
same cache_damaged "$dir/expected" "$dir/found"
grep -q 'slice_cache.damaged file=.*slice tensor=blk' "$dir/err" && ok cache_damage_is_told || bad cache_damage_is_told "$(cat "$dir/err")"
generate "$dir/found" --stages 2 --weights send $kept
[ ! -s "$dir/err" ] && cmp -s "$dir/expected" "$dir/found" && ok cache_repaired || bad cache_repaired "$(cat "$dir/err")"
generate "$dir/found" --stages 2 --cache-dir /proc/slices --cache-gb 1
same cache_without_a_place "$dir/expected" "$dir/found"
grep -q 'slice_cache.none .*cannot make the folder /proc/slices' "$dir/err" && ok cache_place_is_told || bad cache_place_is_told "$(cat "$dir/err")"
generate "$dir/found" --cache-gb -1
says cache_bad_bound 2 'cache-gb'

if can_hide; then
  generate "$dir/found" --stages 2 --mpirun "$dir/mpirun"
  says shared_needs_the_file 1 'rank 1 .*cannot open .*model.gguf'
  for grid in "2 1" "1 2" "2 2"; do
    set -- $grid
    generate "$dir/found" --stages $1 --shards $2 --weights send --cache-gb 0 --mpirun "$dir/mpirun"
    same "sent_$1x$2" "$dir/expected" "$dir/found"
  done
  generate "$dir/found" --stages 2 --weights send --reference --mpirun "$dir/mpirun"
  same sent_to_plain_c "$dir/expected" "$dir/found"

  generate "$dir/found" --stages 2 --weights local --mpirun "$dir/mpirun"
  says copy_is_missing 1 'rank 1 .*cannot open .*model.gguf'
  cp "$model" "$OTHER/"
  generate "$dir/found" --stages 2 --weights local --mpirun "$dir/mpirun"
  same copies "$dir/expected" "$dir/found"
  tail -c 100000 "$model" | tr '\000-\377' '\001-\377\000' >"$dir/tail"
  dd if="$dir/tail" of="$OTHER/model.gguf" bs=1 seek=$(($(stat -c %s "$model") - 100000)) conv=notrunc 2>/dev/null
  generate "$dir/found" --stages 2 --weights local --mpirun "$dir/mpirun"
  says copy_differs 1 'rank 1 .*model.gguf on host .* is another model than on host '
else
  skip ranks_without_the_file "needs root and mount namespaces"
  generate "$dir/found" --stages 2 --shards 2 --weights send --cache-gb 0
  same sent_2x2 "$dir/expected" "$dir/found"
fi
exit $failed
