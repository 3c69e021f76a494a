#!/bin/bash
# The paper's model on 4 machines of 8 GPUs under Slurm. Written for Slurm's documented behaviour, not run by this project.
#
# Command    sbatch recipes/pretrain/slurm.sh recipes/pretrain/soho_r101_12l.yaml data.root=/data
#            from the root of the repository, on a disk that all machines see: `output` must be the same folder for all
#SBATCH --job-name=soho
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
set -euo pipefail

# One torchrun a machine; they meet at the first one. At SIGTERM, 300 s before the time is over, the run saves a checkpoint
# and ends; the same command, requeued or given again, goes on at the sample where it stopped.
host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=1
srun --kill-on-bad-exit=1 torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc_per_node 8 --rdzv_id "$SLURM_JOB_ID" \
    --rdzv_backend c10d --rdzv_endpoint "$host:29500" -m soho pretrain "$@"
