#!/usr/bin/env bash
# caravan plan --shape --cluster from outside: the plans of docs/planning.md, sums that must hold in any plan, a shape
# against the file that it describes, errors that name their line. Needs python3 for the sums.
set -u
. "$(dirname "$0")/check.sh"
command -v python3 >/dev/null || { skip plan "no python3"; exit 0; }

# adds_up NAME FILE ARGS...: the JSON of a plan, what must hold in it.
adds_up() {
  local name=$1 file=$2
  shift 2
  timeout 100 "$CARAVAN" plan "$@" --json >"$file" 2>"$dir/err" || { bad "$name" "$(cat "$dir/err")"; return; }
  check "$name" python3 - "$file" <<'PYTHON'
import json, sys
plan = json.load(open(sys.argv[1]))
ranks, grid, f = plan["ranks"], plan["plan"], plan["forecast"]
def same(what, a, b, slack=1e-9):
    assert abs(a - b) <= slack * max(abs(a), abs(b), 1e-30), f"{what}: {a} and {b}"
assert len(ranks) == grid["stages"] * grid["shards"]
n_layers = max(r["layer_end"] for r in ranks)
dim = ranks[0]["hop"]["bytes_per_token"] if grid["stages"] > 1 else None
for i, r in enumerate(ranks):
    where = f"rank {i}"
    assert r["rank"] == i and r["stage"] == i // grid["shards"] and r["shard"] == i % grid["shards"], where
    same(where + " memory", r["total_bytes"], r["weight_bytes"] + r["kv_bytes"] + r["work_bytes"], 0)
    assert r["total_bytes"] <= r["available_bytes"], where
    for step in ("decode", "prefill"):
        c = r[step]
        same(f"{where} {step}", c["total_s"], sum(c[k] for k in ("weights_s", "attend_s", "launch_s", "copy_s", "share_s")))
    assert r["decode"]["weights_s"] > 0 and r["prefill"]["weights_s"] >= r["decode"]["weights_s"] and r["load_s"] > 0, where
    assert (r["share_bytes_per_token"] > 0) == (grid["shards"] > 1), where
    if r["hop"]:
        h, is_back = r["hop"], r["stage"] + 1 == grid["stages"]
        assert h["to_rank"] == (0 if is_back else i + grid["shards"]), where
        if not is_back:
            same(where + " bytes", h["bytes_per_token"], dim, 0)
            assert h["decode_s"] >= h["latency_s"] + h["bytes_per_token"] / h["bytes_per_s"] * (1 - 1e-9), where
# Every layer once, every head and value of the feed-forward part of a layer once.
for shard in range(grid["shards"]):
    at = 0
    for r in ranks[shard::grid["shards"]]:
        assert r["layer_begin"] == at, f"layers of rank {r['rank']}"
        at = r["layer_end"]
    assert at == n_layers
for stage in range(grid["stages"]):
    for what in ("heads", "ff"):
        at = 0
        for r in ranks[stage * grid["shards"]:(stage + 1) * grid["shards"]]:
            assert r[what][0] == at, f"{what} of rank {r['rank']}"
            at = r[what][1]
        assert at == max(r[what][1] for r in ranks)
# Memory that ranks share.
hosts = {}
for r in ranks:
    if r["is_host_memory"]: hosts.setdefault(r["host"], []).append(r)
for name, those in hosts.items():
    assert sum(r["total_bytes"] for r in those) <= max(r["available_bytes"] for r in those), name
# Speeds from the times of the stages.
stages = [max(r["decode"]["total_s"] for r in ranks[s * grid["shards"]:(s + 1) * grid["shards"]]) for s in range(grid["stages"])]
hops = [max((r["hop"]["decode_s"] for r in ranks[s * grid["shards"]:(s + 1) * grid["shards"]] if r["hop"]), default=0)
        for s in range(grid["stages"])]
same("decode", f["decode_tokens_per_s"], 1 / (sum(stages) + sum(hops)))
assert f["streams_tokens_per_s"] <= 1 / max(stages) * (1 + 1e-9)
assert f["streams_tokens_per_s"] >= f["decode_tokens_per_s"] * (1 - 1e-9) and f["bottleneck"]
same("loading", f["load_s"], max(r["load_s"] for r in ranks))
assert len(ranks) + len(plan["left_out"]) == plan["devices"]
for c in plan["changes"]:
    assert ("no_plan" in c) != ("decode_tokens_per_s" in c), c
PYTHON
}

# says NAME FILE PATTERN
says() { if grep -Eq -e "$3" "$2"; then ok "$1"; else bad "$1" "$(tail -15 "$2")"; fi; }
# is NAME FILE EXPRESSION of plan
is() { check "$1" python3 -c 'import json, sys; plan = json.load(open(sys.argv[1])); assert '"$3" "$2"; }

lab=(--shape configs/shapes/llama-3-70b.cfg --cluster configs/clusters/four-unlike.cfg)
rack=(--shape configs/shapes/llama-3.1-405b.cfg --cluster configs/clusters/sixteen.cfg)
site=(--shape configs/shapes/moe-1.8t.cfg --cluster configs/clusters/two-hundred-fifty-six.cfg)
adds_up plan_70b "$dir/70b" "${lab[@]}"
is plan_70b_uses_all "$dir/70b" 'not plan["left_out"] and len({r["host"] for r in plan["ranks"]}) == 4'
is plan_70b_is_exact "$dir/70b" 'plan["is_exact"]'
adds_up plan_405b "$dir/405b" "${rack[@]}" --goal throughput
is plan_405b_uses_all "$dir/405b" 'len({r["host"] for r in plan["ranks"]}) == 16'
adds_up plan_1800b "$dir/1800b" "${site[@]}"
adds_up plan_1800b_streams "$dir/streams" "${site[@]}" --goal throughput
check plan_goals python3 -c '
import json, sys
one, many = (json.load(open(f))["forecast"] for f in sys.argv[1:])
assert many["streams_tokens_per_s"] >= one["streams_tokens_per_s"], "throughput"
assert one["decode_tokens_per_s"] >= many["decode_tokens_per_s"], "latency"' "$dir/1800b" "$dir/streams"

# as_worked NAME FILE TITLE: the speeds that docs/planning.md works out by hand below a title.
as_worked() {
  check "$1" python3 - "$2" "$3" <<'PYTHON'
import json, re, sys
forecast = json.load(open(sys.argv[1]))["forecast"]
section = open("docs/planning.md").read().split("## " + sys.argv[2])[1].split("\n## ")[0]
figures = re.findall(r"\*\*([0-9.]+) tokens/s\*\*", section)
speeds = [forecast[k] for k in ("decode_tokens_per_s", "streams_tokens_per_s", "prefill_tokens_per_s")]
assert len(figures) >= 2, figures
for f in figures:
    digits = len(f.partition(".")[2])
    assert any(f == f"{s:.{digits}f}" for s in speeds), f"{f} is none of {speeds}"
PYTHON
}
adds_up plan_70b_in_a_row "$dir/row" "${lab[@]}" --stages 4 --shards 1
as_worked page_70b "$dir/row" "70 B on 4"
as_worked page_405b "$dir/405b" "405 B on 16"
as_worked page_1800b "$dir/1800b" "1.8 T on 256"
"$CARAVAN" plan "${lab[@]}" >"$dir/out" 2>"$dir/err"
n=0
for words in '^Llama 3 70B on 4 hosts with 4 devices, goal latency' '^rank +host +device +stage' '^one stream: [0-9.]+ tokens/s' \
  '^bottleneck: stage' 'with one more host like (red|green|blue|grey): ' 'without host (red|green|blue|grey): '; do
  says "text_$((++n))" "$dir/out" "$words"
done

# ---- the demo model and its shape ----
cat >"$dir/demo.cfg" <<'END'
architecture = "llama"; format = "Q8_0"; layers = 8; dim = 256; heads = 8; kv_heads = 4; ff = 768; vocab = 8192;
context = 1024; tied = true;
END
cat >"$dir/desks.cfg" <<'END'
hosts = { desk = { count = 3; memory_gb = 1.0; devices = { cpu = { read_gb_s = 20.0; }; }; };
          slow = { memory_gb = 1.0; devices = { cpu = { read_gb_s = 0.01; }; }; }; };
END
for name in alone grid cluster; do
  case $name in alone) grid="";; grid) grid="--stages 2 --shards 2";; cluster) grid="--cluster $dir/desks.cfg";; esac
  "$CARAVAN" plan --shape "$dir/demo.cfg" $grid --json 2>"$dir/err" | sed 's/"search_s": [0-9.e-]*//; s/"model": "[^"]*"//' >"$dir/a"
  "$CARAVAN" plan models/demo.gguf $grid --json 2>>"$dir/err" | sed 's/"search_s": [0-9.e-]*//; s/"model": "[^"]*"//' >"$dir/b"
  if [ -s "$dir/a" ] && cmp -s "$dir/a" "$dir/b"; then ok "shape_as_file_$name"
  else bad "shape_as_file_$name" "$(cat "$dir/err"; head -c 300 "$dir/a"; echo; head -c 300 "$dir/b")"; fi
done
adds_up plan_demo "$dir/c" models/demo.gguf --cluster "$dir/desks.cfg" --goal throughput
is leaves_out_the_slow "$dir/c" '[l["host"] for l in plan["left_out"] if l["host"] == "slow"] and all(l["why"] for l in plan["left_out"])'
adds_up plan_two_of_four "$dir/c" models/demo.gguf --cluster "$dir/desks.cfg" --stages 2
is takes_the_grid "$dir/c" 'plan["plan"]["stages"] == 2'

# ---- errors: exit code, one line, where ----
refuses() {
  local name=$1 want=$2 pattern=$3 rc
  shift 3
  timeout 60 "$CARAVAN" plan "$@" >"$dir/out" 2>"$dir/err"; rc=$?
  if [ $rc -eq "$want" ] && [ ! -s "$dir/out" ] && [ "$(wc -l <"$dir/err")" -eq 1 ] && grep -Eq -e "$pattern" "$dir/err"; then ok "$name"
  else bad "$name" "exit code $rc: $(cat "$dir/err")"; fi
}
sed 's/read_gb_s = 624.0/read_gb = 624.0/' configs/clusters/four-unlike.cfg >"$dir/key.cfg"
line=$(grep -n 'read_gb = ' "$dir/key.cfg" | cut -d: -f1)
refuses bad_cluster_key 1 "key.cfg:$line: hosts.red.devices.gpu.read_gb: unknown key; expected one of device" models/demo.gguf --cluster "$dir/key.cfg"
sed 's/heads = 8/heads = 0/' "$dir/demo.cfg" >"$dir/heads.cfg"
refuses bad_shape_key 1 'heads.cfg:1: heads: expected a whole number from 1 to 65536, found 0' --shape "$dir/heads.cfg"
refuses no_cluster_file 1 'none.cfg' models/demo.gguf --cluster "$dir/none.cfg"
refuses no_shape_file 1 'none.cfg' --shape "$dir/none.cfg"
refuses two_models 2 'a model and a shape' models/demo.gguf --shape "$dir/demo.cfg"
refuses bad_goal 2 'goal: expected latency or throughput, found "speed"' models/demo.gguf --goal speed
refuses too_small 1 'the model needs .* missing' "${lab[@]}" --memory-mb 4000
refuses too_many_stages 2 '9 stages' models/demo.gguf --cluster "$dir/desks.cfg" --stages 9
refuses not_so_many_devices 2 '5 .*devices' models/demo.gguf --cluster "$dir/desks.cfg" --stages 5
exit $failed
