#!/usr/bin/env bash
# From a clone to a trained full-spike network in a few minutes on two CPU cores:
#   makes .venv, installs, trains a small network with its accumulation pathway on scikit-learn's digits,
#   detaches the pathway, evaluates, and draws learning curves and firing rates under runs/quickstart/.
#
#   scripts/quickstart.sh                  images: a narrow FSNN-18 with the pathway (dsnn18)
#   scripts/quickstart.sh --events         events: recordings of the digits as an event camera sees them, written in
#                                          DVS128 Gesture's files, converted to frames, 7B-Net with the pathway (dsnn_7b)
#   scripts/quickstart.sh --without-aap    the same trunk trained alone (fsnn18; after --events: fsnn_7b)
# Anything else is passed on to cifar/train.py or dvsgesture/train.py, e.g. --epochs 2.
source "$(dirname "$0")/setup_env.sh"
out=runs/quickstart
module=cifar.train with=dsnn18 without=fsnn18 data=digits fused=
options=(--dataset digits --stem imagenet --width 16 --surrogate atan -b 32 --epochs 20)
if [ "${1:-}" = --events ]; then
  shift
  module=dvsgesture.train with=dsnn_7b without=fsnn_7b data=digits-dvs
  options=(--dataset digits-dvs --frame-size 16 --T 4 --T-train 4 -b 32 --lr 0.1 --lr-scheduler cosine --epochs 24)
  if command -v "${CC:-cc}" >/dev/null; then fused=--fused; fi # faster; it is compiled at its first use
fi
model=$with
if [ "${1:-}" = --without-aap ]; then model=$without; shift; fi
setup_env requirements.txt
# waiting threads sleep: on a machine that does other work as well, spinning ones cost a factor of ten and more
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"

options+=(--model "$model" -j 0 --print-freq 1000 --device cpu --output-dir "$out")
"$PYTHON" -m "$module" "${options[@]}" $fused --tb --overwrite "$@"

echo
"$PYTHON" -m "$module" "${options[@]}" "$@" --test-only --resume auto | tail -n +3
if [ "$model" = "$with" ]; then
  echo
  "$PYTHON" -m "$module" "${options[@]}" "$@" --test-only --resume auto --detach | tail -n +3
fi
echo
run="$(dirname "$(ls -t "$out/$data"_*"$model"_*/metrics.jsonl | head -n 1)")"
"$PYTHON" -m utils.plots "$run"
"$PYTHON" -m utils.report "$run"
