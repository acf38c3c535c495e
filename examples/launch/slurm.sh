#!/usr/bin/env bash
# Trains on the GPUs of several machines under Slurm, one process for each GPU: sbatch examples/launch/slurm.sh
# Set nodes, tasks and GPUs to what you have; the environment and the folders, which all machines must see, to where they are.
#SBATCH --job-name=tl-unet
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=tl-unet-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start this with sbatch, from the project}"

# shellcheck disable=SC1091
. "${VENV:-venv}/bin/activate"
export KERAS_BACKEND=jax

# Process 0 runs on the first machine. The port follows from the job's number, so that two jobs on one machine do not meet.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$first:$((20000 + SLURM_JOB_ID % 20000))

# srun gives each process SLURM_NTASKS and SLURM_PROCID, and JAX under Slurm takes the GPU of SLURM_LOCALID.
# --kill-on-bad-exit ends the step when a process dies; the job then starts over, as often as RESTARTS says, from the last checkpoint.
status=0
srun --kill-on-bad-exit=1 --label python examples/train_distributed.py \
    --address "$address" \
    --data "${DATA:?set DATA to the folder of Oxford-IIIT Pet}" \
    --weights "${WEIGHTS:-imagenet}" \
    --batch-size 128 --size 256 --epochs 20 \
    --output "${OUTPUT:-runs/distributed}" --resume || status=$?
if [ "$status" -ne 0 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "${RESTARTS:-3}" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
