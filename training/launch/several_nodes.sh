#!/usr/bin/env bash
# Train on several machines: start the same command on each of them, in any order.
#   NODES=2 HEAD=machine0 training/launch/several_nodes.sh gta_convnext_l --out /shared/runs/gta
# NODES      number of machines
# HEAD       host name of the machine that the others connect to; PORT is its port, 29500 by default
# PROCESSES  processes on each machine; default: one for each GPU, or one without GPUs
# RUN        name of the training; needed if several trainings use the same HEAD
# Every machine must find the data and --out under the same path. To go on with a killed training, start the
# same command again with --resume.
set -euo pipefail
gpus=$( (nvidia-smi --list-gpus 2>/dev/null || true) | wc -l)
if [ "$gpus" -eq 0 ]; then export ACCELERATE_USE_CPU=true; fi
exec torchrun --nnodes "${NODES:?number of machines}" --nproc-per-node "${PROCESSES:-$((gpus > 0 ? gpus : 1))}" \
  --rdzv-backend c10d --rdzv-endpoint "${HEAD:?host name of the first machine}:${PORT:-29500}" \
  --rdzv-id "${RUN:-clouds}" -m clouds_deploy train "$@"
