#!/usr/bin/env bash
# One job per fold of a run; the last to finish writes the results of all.
#     sbatch examples/slurm_array.sh configs/gbmlgg.py runs/gbmlgg
# A job that is preempted (SIGTERM) saves, leaves with 143, and resumes when requeued.
#SBATCH --job-name=fof
#SBATCH --array=0-4
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
set -euo pipefail
config=${1:?config} workdir=${2:?workdir}
# exec: the signal reaches Python, not the shell.
exec fof --config="$config" --workdir="$workdir" --config.fold="$SLURM_ARRAY_TASK_ID"
