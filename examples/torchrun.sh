#!/bin/bash
# Train on several machines. Run this on each of them; the first is named in HEAD.
#
#   HEAD=node-0 NODES=2 GPUS=8 examples/torchrun.sh --config orpo --config model/llama-2-7b \
#       --config data/ultrafeedback --config trainer/fsdp2 --trainer.default_root_dir /shared/runs/orpo
#
# The run folder has to be one that all machines see. Started again with --ckpt_path last, the run goes on, also on
# another number of machines. With HEAD left out it is one machine.
set -euo pipefail

exec python -m torch.distributed.run \
    --nnodes "${NODES:-1}" --nproc-per-node "${GPUS:-1}" \
    --rdzv-backend c10d --rdzv-endpoint "${HEAD:-localhost}:${PORT:-29500}" \
    --module orpo_lightning fit "$@" --trainer.num_nodes "${NODES:-1}" --trainer.devices "${GPUS:-1}"
