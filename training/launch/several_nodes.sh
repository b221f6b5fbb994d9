#!/usr/bin/env bash
# Train on several machines: start the same command on each of them, in any order.
#   NODES=2 HEAD=machine0 training/launch/several_nodes.sh gta_convnext_l --out /shared/runs/gta
# NODES      how many machines
# HEAD       the one where they meet, as the others call it; PORT of it is 29500 unless said otherwise
# PROCESSES  on each machine; default: one a GPU, or one where there is none
# RUN        a name, where several trainings meet on one machine
# Data and --out must be where every machine finds them under the same path. A killed training goes on when
# the same command is started again with --resume.
set -euo pipefail
gpus=$( (nvidia-smi --list-gpus 2>/dev/null || true) | wc -l)
if [ "$gpus" -eq 0 ]; then export ACCELERATE_USE_CPU=true; fi
exec torchrun --nnodes "${NODES:?how many machines}" --nproc-per-node "${PROCESSES:-$((gpus > 0 ? gpus : 1))}" \
  --rdzv-backend c10d --rdzv-endpoint "${HEAD:?the machine where all meet}:${PORT:-29500}" \
  --rdzv-id "${RUN:-clouds}" -m clouds_deploy train "$@"
