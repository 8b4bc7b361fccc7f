#!/usr/bin/env bash
# Caravan under Slurm: a slurmctld, slurmds and munged of this test's own on virtual hosts (tests/hosts.sh); srun,
# salloc, and the scripts of configs/, the one that serves asked over HTTP from another host.
# $CARAVAN: the program. Prints one line per case in the form tests/run counts.
set -u
. "$(dirname "$0")/check.sh"
export HOSTS_NAME=slurm$$
hosts=tests/hosts.sh
for tool in slurmctld slurmd srun munged mungekey; do
  PATH=$PATH:/usr/sbin command -v $tool >/dev/null ||
    { skip slurm "$tool is missing: apt-get install slurmctld slurmd slurm-client munge"; exit 0; }
done
PATH=$PATH:/usr/sbin
if ! why=$($hosts check 2>&1); then skip slurm "$why"; exit 0; fi
trap '$hosts down; rm -rf "$dir"' EXIT
$hosts up 3 --for $$ || { bad hosts_up "see above"; exit 1; }
model=$PWD/models/demo.gguf

# ---- a Slurm of three hosts ----

mkdir "$dir/state" "$dir/log"
chmod 755 "$dir"
mungekey --create --keyfile="$dir/munge.key"
cat >"$dir/slurm.conf" <<END
ClusterName=test
SlurmctldHost=h1
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool.%n
TmpFS=$dir/tmp.%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld
SlurmdLogFile=$dir/log/slurmd.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
NodeName=h[1-3] CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
export SLURM_CONF=$dir/slurm.conf
on() { $hosts exec "$@"; }
on h1 munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
  --log-file="$dir/log/munged" --seed-file="$dir/munge.seed" 2>"$dir/err"
on h1 slurmctld -c 2>>"$dir/err"
for h in h1 h2 h3; do
  mkdir "$dir/spool.$h" "$dir/tmp.$h"
  on $h slurmd -N $h 2>>"$dir/err"
done
for _ in $(seq 150); do
  [ "$(on h1 sinfo -h -o %T%D 2>>"$dir/err")" = idle3 ] && break
  sleep 0.2
done
if [ "$(on h1 sinfo -h -o %T%D)" != idle3 ]; then
  bad slurm_starts "$(tail -5 "$dir/err" "$dir"/log/*)"
  exit 1
fi
ok slurm_starts

# ---- jobs ----

tokens() { sed -n 's/.*"tokens": \[\([0-9, ]*\)\], "text".*/\1/p' "$1"; }
places() { grep -o '"host": "[^"]*"' "$1" | cut -d'"' -f4 | xargs; }
# same NAME PLACES: what is in $dir/out.
same() {
  if [ "$(tokens "$dir/out")" != "$expected" ]; then bad "$1" "$(cat "$dir/err" "$dir/out")"
  elif [ "$(places "$dir/out")" != "$2" ]; then bad "$1" "ranks are on: $(places "$dir/out"); expected: $2"
  else ok "$1"; fi
}
# Unmeasured: a measured plan may take the hosts in another order than the launcher. The scripts below measure.
ask=(generate "$model" --prompt "A violin is" --max-tokens 12 --threads 1 --json --probe off)
"$CARAVAN" "${ask[@]}" >"$dir/out" 2>"$dir/err"
expected=$(tokens "$dir/out")

timeout 60 $hosts exec h1 srun --mpi=pmix --nodes=3 --ntasks=3 "$CARAVAN" "${ask[@]}" --stages 3 >"$dir/out" 2>"$dir/err"
same srun_pmix "h1 h2 h3"
timeout 60 $hosts exec h1 srun --mpi=pmix --nodes=2 --nodelist=h1,h2 --ntasks=4 --distribution=block "$CARAVAN" "${ask[@]}" --stages 2 --shards 2 \
  >"$dir/out" 2>"$dir/err"
same srun_pmix_two_each "h1 h1 h2 h2"
timeout 60 $hosts exec h1 salloc --nodes=3 --ntasks=3 "$CARAVAN" "${ask[@]}" --stages 3 >"$dir/out" 2>"$dir/err"
same salloc "h1 h2 h3"
timeout 60 $hosts exec h1 salloc --nodes=2 --nodelist=h1,h2 --ntasks-per-node=2 "$CARAVAN" "${ask[@]}" --stages 2 --shards 2 >"$dir/out" 2>"$dir/err"
same salloc_two_each "h1 h1 h2 h2"
timeout 60 $hosts exec h1 salloc --nodes=2 --nodelist=h1,h2 --ntasks=3 "$CARAVAN" "${ask[@]}" --stages 3 >"$dir/out" 2>"$dir/err"
same salloc_uneven "h1 h1 h2"
timeout 60 $hosts exec h1 salloc --nodes=2 --nodelist=h1,h2 --ntasks=2 "$CARAVAN" "${ask[@]}" --stages 3 >"$dir/out" 2>"$dir/err"
check salloc_too_few_slots grep -q "3 ranks, but the hosts have 2 slots" "$dir/err"

timeout 60 $hosts exec h1 env CARAVAN="$CARAVAN" MODEL="$model" PROMPT="A violin is" \
  sbatch --wait --chdir="$dir" --output="$dir/out" --error="$dir/err" configs/slurm.sbatch >"$dir/said" 2>&1
[ "$(tokens "$dir/out" | cut -d, -f1-12)" = "$expected" ] && ok sbatch || bad sbatch "$(cat "$dir/said" "$dir/err" "$dir/out")"

# ---- a server as a job ----

echo "reader secret-of-the-reader" >"$dir/keys"
chmod 600 "$dir/keys"
body='{"prompt": "A violin is", "max_tokens": 12, "temperature": 0}'
curl_key() { on h3 curl -fsS -m 30 -H 'Authorization: Bearer secret-of-the-reader' -H 'Content-Type: application/json' "$@"; }
job=$(on h1 env CARAVAN="$CARAVAN" MODEL="$model" KEYS="$dir/keys" \
  sbatch --parsable --chdir="$dir" --output="$dir/served" --nodelist=h1,h2 configs/slurm-serve.sbatch 2>"$dir/err")
for _ in $(seq 150); do
  on h3 curl -fs -m 2 http://h1:8080/ready >/dev/null 2>&1 && break
  sleep 0.2
done
curl_key http://h1:8080/v1/completions -d "$body" >"$dir/out" 2>"$dir/err"
grep -q "\"text\"" "$dir/out" && ok sbatch_serve_answers || bad sbatch_serve_answers "$(cat "$dir/err" "$dir/served")"
check sbatch_serve_says_where grep -q 'http://h1:8080' "$dir/served"
# A long answer is under way as the job is asked to end: it comes whole.
curl_key http://h1:8080/v1/completions -d '{"prompt": "A violin is", "max_tokens": 600, "ignore_eos": true}' >"$dir/out" 2>"$dir/err" &
answer=$!
sleep 0.5
on h1 scancel --batch --signal=TERM "$job"
wait $answer
check sbatch_serve_drains grep -q '"completion_tokens": *600' "$dir/out"
for _ in $(seq 100); do [ -z "$(on h1 squeue -h 2>/dev/null)" ] && break; sleep 0.2; done
[ -z "$(on h1 squeue -h)" ] && ok sbatch_serve_ends || bad sbatch_serve_ends "$(on h1 squeue; cat "$dir/served")"
exit $failed
