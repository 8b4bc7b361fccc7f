#!/bin/bash
# A server of Caravan on two hosts of a PBS cluster, two ranks each; modelled on slurm-serve.sbatch, NOT RUN under PBS
# yet (it ran with a file of hosts as PBS writes it):
#
#     qsub -v MODEL=/shared/model.gguf,KEYS=keys.txt configs/pbs-serve.sh
#     qsig -s SIGTERM JOB                         # ends it politely: running answers end first
#
# KEYS and the rest as in slurm-serve.sbatch, hosts as in pbs.sh.
#PBS -N caravan-serve
#PBS -l select=2:ncpus=4:mpiprocs=2
#PBS -l walltime=08:00:00
#PBS -j oe
#PBS -k oed

cd "${PBS_O_WORKDIR:-.}" || exit 1
: "${CARAVAN:=./caravan}" "${MODEL:?a GGUF file}" "${PORT:=8080}"
: "${STAGES:=2}" "${SHARDS:=2}" # stages x shards = hosts x mpiprocs

where=(--port "$PORT")
[ -z "${KEYS:-}" ] || where+=(--host 0.0.0.0 --api-keys "$KEYS")

"$CARAVAN" serve "$MODEL" "${where[@]}" --stages "$STAGES" --shards "$SHARDS" --drain-s 100 &
server=$!
trap 'kill -TERM $server' TERM INT
echo "asked at http://$(hostname):$PORT once it says that it is listening"
# A signal ends wait, not the server.
while kill -0 $server 2>/dev/null; do wait $server; done
