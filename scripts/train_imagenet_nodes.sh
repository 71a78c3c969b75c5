#!/usr/bin/env bash
# The same run over several machines. Start it on each of them with the same values:
#
#   NNODES=2 NPROC=4 RDZV=first-machine:29500 scripts/train_imagenet_nodes.sh /shared/imagenet [options]
#
# Batch: NNODES x NPROC processes x 64 images; 2 x 4 x 64 = 512 as published. With more processes lower -b.
# RDZV is a name and a free port of one of the machines. --output-dir must be a folder that all machines see, so that
# a restart finds the checkpoints whichever machine becomes the first. If a worker dies, or a machine other than RDZV's
# is lost, the others wait for it (or for another one in its place, started by the same line) and all go on from the
# newest checkpoint, up to 3 times. With RDZV's machine the job ends: start it again on all of them.
set -euo pipefail
cd "$(dirname "$0")/.."
data="${1:?usage: NNODES=2 NPROC=4 RDZV=host:port scripts/train_imagenet_nodes.sh DATA_PATH [options]}"
shift
source scripts/share_cores.sh
share_cores "${NPROC:?GPUs of each machine}"
# without this torchrun does not let another machine take the place of a lost one
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
# the agent hands SIGUSR1 on to its workers, which save; by default it would end by it, and they with it
exec "${PYTHON:-python}" -m torch.distributed.run --nnodes="${NNODES:?how many machines}" \
  --nproc-per-node="${NPROC:?GPUs of each machine}" --rdzv-backend=c10d --rdzv-endpoint="${RDZV:?host:port}" \
  --rdzv-id="${RDZV_ID:-dsnn18}" --max-restarts=3 \
  --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
  -m imagenet.train --data-path "$data" --model dsnn18 --connect_f OR --T 4 -b 64 --lr 0.1 --epochs 320 --cos_lr_T 320 \
  --amp --tb --cache-dataset --print-freq 500 --checkpoint-every 30min --output-dir logs --resume auto "$@"
