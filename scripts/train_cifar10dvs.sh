#!/usr/bin/env bash
# DSNN on SEW-ResNet's Wide-7B-Net, CIFAR10-DVS, with SEW-ResNet's recipe, on one GPU.
#
#   scripts/train_cifar10dvs.sh ~/data/cifar10dvs [options of cifar10dvs/train.py]
#   scripts/train_cifar10dvs.sh ~/data/cifar10dvs --model sew_wide7b --connect_f ADD     the published network: 74.4 %
#
# Batch: 1 process x 16 samples. 9,000 samples / 16 = 563 steps an epoch (the last one of 8 samples), 64 epochs = 36,032
# steps. The data path holds download/airplane.zip and nine more, see cifar10dvs/README.md; the first start converts them.
# No accuracy of a DSNN on this data set is available to us; 74.4 % (T = 16) is SEW-ResNet's own, and not re-run here.
set -euo pipefail
cd "$(dirname "$0")/.."
data="${1:?usage: scripts/train_cifar10dvs.sh DATA_PATH [options]}"
shift
source scripts/share_cores.sh
share_cores "${NPROC:-1}"
# the agent hands SIGUSR1 on to its workers, which save; by default it would end by it, and they with it
exec "${PYTHON:-python}" -m torch.distributed.run --standalone --nproc-per-node="${NPROC:-1}" --max-restarts=3 \
  --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
  -m cifar10dvs.train --dataset cifar10dvs --data-path "$data" --model dsnn_wide7b --connect_f OR --T 16 -b 16 \
  --lr 0.01 --epochs 64 --cos_lr_T 64 --amp --tb --checkpoint-every 30min --output-dir logs --resume auto "$@"
