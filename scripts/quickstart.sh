#!/usr/bin/env bash
# From a clone to a trained full-spike network in a few minutes on two CPU cores:
#   makes .venv, installs, trains a narrow FSNN-18 with its accumulation pathway on scikit-learn's digits,
#   detaches the pathway, evaluates, and draws learning curves and firing rates under runs/quickstart/.
#
#   scripts/quickstart.sh                  with the pathway (dsnn18)
#   scripts/quickstart.sh --without-aap    the same trunk trained alone (fsnn18)
# Anything else is passed on to cifar/train.py, e.g. --epochs 2.
source "$(dirname "$0")/setup_env.sh"
model=dsnn18
if [ "${1:-}" = --without-aap ]; then model=fsnn18; shift; fi
setup_env requirements.txt
# waiting threads sleep: on a machine that does other work as well, spinning ones cost a factor of ten and more
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"

out=runs/quickstart
options=(--dataset digits --model "$model" --stem imagenet --width 16 --surrogate atan -b 32 -j 0 --epochs 20
  --print-freq 1000 --device cpu
  --output-dir "$out")
"$PYTHON" -m cifar.train "${options[@]}" --tb --overwrite "$@"

echo
"$PYTHON" -m cifar.train "${options[@]}" "$@" --test-only --resume auto | tail -n +3
if [ "$model" = dsnn18 ]; then
  echo
  "$PYTHON" -m cifar.train "${options[@]}" "$@" --test-only --resume auto --detach | tail -n +3
fi
echo
"$PYTHON" -m utils.plots "$(dirname "$(ls -t "$out"/digits_"$model"_*/metrics.jsonl | head -n 1)")"
