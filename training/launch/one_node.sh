#!/usr/bin/env bash
# Train on all GPUs of this machine:
#   training/launch/one_node.sh gta_convnext_l --out runs/gta
# Arguments and environment variables: as for several_nodes.sh.
set -euo pipefail
NODES=1 HEAD=localhost PORT=0 exec "$(dirname "$0")/several_nodes.sh" "$@"
