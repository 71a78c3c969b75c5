#!/usr/bin/env bash
# DSNN on SEW-ResNet's 7B-Net, DVS128 Gesture, with SEW-ResNet's recipe, on one GPU.
#
#   scripts/train_dvsgesture.sh ~/data/dvsgesture [options of dvsgesture/train.py]
#   scripts/train_dvsgesture.sh ~/data/dvsgesture --model sew_7b --connect_f ADD     the published network: 97.92 %
#
# Batch: 1 process x 16 samples. 1,176 gestures / 16 = 74 steps an epoch (the last one of 8 samples), 192 epochs = 14,208
# steps. The data path holds download/DvsGesture.tar.gz, see dvsgesture/README.md; the first start converts it.
# No accuracy of a DSNN on this data set is available to us; 97.92 % is SEW-ResNet's own, and not re-run here.
set -euo pipefail
cd "$(dirname "$0")/.."
data="${1:?usage: scripts/train_dvsgesture.sh DATA_PATH [options]}"
shift
source scripts/share_cores.sh
share_cores "${NPROC:-1}"
# the agent hands SIGUSR1 on to its workers, which save; by default it would end by it, and they with it
exec "${PYTHON:-python}" -m torch.distributed.run --standalone --nproc-per-node="${NPROC:-1}" --max-restarts=3 \
  --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
  -m dvsgesture.train --dataset dvsgesture --data-path "$data" --model dsnn_7b --connect_f OR --T 16 --T-train 12 -b 16 \
  --lr 0.001 --lr-scheduler step --step-size 64 --gamma 0.1 --epochs 192 --amp --tb --checkpoint-every 30min \
  --output-dir logs --resume auto "$@"
