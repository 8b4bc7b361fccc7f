#!/usr/bin/env bash
# One job over unlike devices: PoCL, rusticl and Oclgrind, which here stand for three vendors, give the tokens and the
# logits of one PoCL rank; the file of a cluster says which rank takes which.
# $CARAVAN: the program. Prints one line per case in the form tests/run counts.
set -u
. "$(dirname "$0")/check.sh"

# Oclgrind is a driver as others are, but does not put itself on the loader's list.
mkdir "$dir/vendors"
cp /etc/OpenCL/vendors/*.icd "$dir/vendors/" 2>/dev/null
ls /usr/lib/oclgrind/liboclgrind-rt-icd.so /usr/lib/*/oclgrind/liboclgrind-rt-icd.so 2>/dev/null | head -1 >"$dir/vendors/oclgrind.icd"
export OCL_ICD_VENDORS=$dir/vendors
for driver in "Portable Computing Language" rusticl Oclgrind; do
  RUSTICL_ENABLE=llvmpipe "$CARAVAN" devices 2>/dev/null | grep -q "^$driver" ||
    { skip unlike_devices "no driver of $driver here"; exit 0; }
done

# cluster NAME DEVICE...: a file with this host and those devices, in the order of its ranks. "TEXT RATE": rate in GB/s.
cluster() {
  local file=$dir/$1 text rate i=0
  shift
  { echo "hosts = { here = { name = \"$(hostname)\"; devices = {"
    for d; do
      read -r text rate <<<"$d"
      echo "  d$((i += 1)) = { device = \"$text\"; ${rate:+read_gb_s = $rate;} };"
    done
    echo "}; }; };"; } >"$file"
}

# run WHAT ARGS...: the tokens of generate, or the logits, in $dir/found.
run() {
  rm -f "$dir/found"
  if [ "$1" = logits ]; then
    timeout 120 "$CARAVAN" logits "${@:2}" --out "$dir/found" >"$dir/out" 2>"$dir/err" </dev/null
  else
    timeout 120 "$CARAVAN" generate "${@:2}" --ignore-eos --json >"$dir/out" 2>"$dir/err" </dev/null
    sed -n 's/.*"tokens": \[\([0-9, ]*\)\], "text".*/\1/p' "$dir/out" >"$dir/found"
  fi
}
same() {
  if [ -s "$dir/found" ] && cmp -s "$dir/$2" "$dir/found"; then ok "$1"
  else bad "$1" "$(head -c 500 "$dir/err"; head -c 300 "$dir/out")"; fi
}
# Each of the three computed: the devices that the ranks named.
all_three() {
  local n
  n=$(grep -o '"device": "[^"]*"' "$dir/out" | sed 's/"device": "\([a-zA-Z]*\).*/\1/' | sort -u | tr '\n' ' ')
  [ "$n" = "Oclgrind llvmpipe pthread " ] && ok "$1" || bad "$1" "devices: $n"
}

model=tests/golden/llama-shards-q4.q4_0.gguf
prompt=$(head -1 tests/golden/llama-shards-q4.tokens | cut -d, -f1-8)
generate="$model --tokens $prompt --max-tokens 6 --temperature 0.9 --seed 7"
run logits $model --tokens "$prompt" --device pthread && mv "$dir/found" "$dir/logits"
run tokens $generate --device pthread && mv "$dir/found" "$dir/tokens"
# Layers of the three, the fewest first: "1 1 2 ".
layers() { grep -o '"layer_begin": [0-9]*, "layer_end": [0-9]*' "$dir/out" | awk '{print $4 - $2}' | sort | tr '\n' ' '; }

cluster alike pthread rusticl Oclgrind
run tokens $generate --stages 3 --cluster "$dir/alike" --probe off
same 3x1_tokens tokens
all_three 3x1_devices
cluster turned pthread Oclgrind rusticl
run logits $model --tokens "$prompt" --shards 3 --cluster "$dir/turned" --probe off --prefill-chunk 3
same 1x3_logits logits

# By the rates of the file one gets more than the others: of the layers, and of each layer.
cluster unequal "pthread 2.0" "rusticl 100.0" "Oclgrind 2.0"
run tokens $generate --stages 3 --cluster "$dir/unequal" --probe off
same 3x1_unequal_tokens tokens
all_three 3x1_unequal_devices
[ "$(layers)" = "1 1 2 " ] && ok 3x1_unequal_layers || bad 3x1_unequal_layers "$(layers)"
run tokens $generate --shards 3 --cluster "$dir/unequal" --probe off
same 1x3_unequal_tokens tokens
all_three 1x3_unequal_devices

# Measured: the grid is the job's to choose, and whether one stays out.
cluster two pthread rusticl
run tokens $generate --cluster "$dir/two" --probe again
same measured_tokens tokens
exit $failed
