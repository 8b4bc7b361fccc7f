#!/bin/bash
# Caravan on two hosts of a PBS cluster, two ranks each; modelled on slurm.sbatch, NOT RUN under PBS yet (it
# ran with a file of hosts as PBS writes it):
#
#     qsub -v MODEL=/shared/model.gguf,PROMPT="Once upon a time" configs/pbs.sh
#
# Program and model lie at the same path on all hosts. Debian's Open MPI is built without PBS's library (tm): Caravan
# takes hosts and slots from $PBS_NODEFILE, and mpirun reaches them by ssh. Where `ompi_info | grep tm` shows
# "MCA plm: tm" it starts the ranks through PBS.
#PBS -N caravan
#PBS -l select=2:ncpus=4:mpiprocs=2
#PBS -l walltime=00:30:00
#PBS -o caravan.json
#PBS -e caravan.log

cd "${PBS_O_WORKDIR:-.}" || exit 1
: "${CARAVAN:=./caravan}" "${MODEL:?a GGUF file}" "${PROMPT:?a text}"
: "${STAGES:=2}" "${SHARDS:=2}" # stages x shards = hosts x mpiprocs

exec "$CARAVAN" generate "$MODEL" --prompt "$PROMPT" --stages "$STAGES" --shards "$SHARDS" --json
