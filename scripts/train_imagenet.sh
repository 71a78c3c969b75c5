#!/usr/bin/env bash
# DSNN-18 on ImageNet with the published recipe, one machine with 8 GPUs.
#
#   scripts/train_imagenet.sh /datasets/imagenet [options of imagenet/train.py]
#   NPROC=2 scripts/train_imagenet.sh /datasets/imagenet --device cpu         another number of processes
#
# Batch: 8 processes x 64 images = 512 a step. 1,281,167 images / 8 = 160,146 a process, / 64 = 2,503 steps an epoch (the
# last one of 18 images a process), 320 epochs = 800,960 steps. With other process counts keep NPROC x batch at 512.
# Prints a line every 500 steps and one each epoch; accuracies are of the trunk alone (fsnn), the pathway alone (aap) and
# their sum. Published for DSNN-18: 63.46 % top-1, 85.14 % top-5 (syops-counter's table; not re-run here).
# A worker that dies is restarted, with all others, from the newest checkpoint, up to 3 times.
set -euo pipefail
cd "$(dirname "$0")/.."
data="${1:?usage: scripts/train_imagenet.sh DATA_PATH [options]}"
shift
source scripts/share_cores.sh
share_cores "${NPROC:-8}"
# the agent hands SIGUSR1 on to its workers, which save; by default it would end by it, and they with it
exec "${PYTHON:-python}" -m torch.distributed.run --standalone --nproc-per-node="${NPROC:-8}" --max-restarts=3 \
  --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
  -m imagenet.train --data-path "$data" --model dsnn18 --connect_f OR --T 4 -b 64 --lr 0.1 --epochs 320 --cos_lr_T 320 \
  --amp --tb --cache-dataset --print-freq 500 --checkpoint-every 30min --output-dir logs --resume auto "$@"
