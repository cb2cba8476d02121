#!/bin/bash
# Train from a SLURM queue, on as many machines as are asked for, and go on in a new job where the time ends one.
#
#   sbatch examples/slurm.sh --config orpo --config model/llama-2-7b --config data/ultrafeedback \
#       --config trainer/fsdp2 --trainer.default_root_dir /shared/runs/orpo
#
# Two minutes before its time is over the job is asked to stop: it saves, ends with code 75 and goes back into the queue.
# The next one goes on from there, in the same folder and, with W&B, as the same run. The run folder has to be one that
# all machines see. Change the lines below to what your cluster has.
#SBATCH --job-name=orpo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

# A task that fails alone ends those of all machines. The first one, which runs on the machine of this script, ends with
# 75 when all have saved: were that its code for SLURM, it would end those that are still about to end, and their codes
# would hide it. So it leaves a mark instead, in a file of this machine that only this start of the job knows.
STOPPED=$(mktemp) || exit
export STOPPED
task='trap : USR1 TERM  # they are for the command, and SLURM sends them to this shell, too
orpo-lightning fit "$@"
code=$?
[ "$code" = 75 ] || exit "$code"
[ "$SLURM_PROCID" != 0 ] || echo "$code" > "$STOPPED"'
srun ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} --kill-on-bad-exit=1 bash -c "$task" task "$@" --ckpt_path last \
    --trainer.num_nodes "$SLURM_NNODES" --trainer.devices "$SLURM_NTASKS_PER_NODE"
code=$?
saved=$(cat "$STOPPED")
rm "$STOPPED"
if [ "$code" = 0 ] && [ "$saved" ]; then
    scontrol requeue "$SLURM_JOB_ID"
    code=75
fi
exit "$code"
