#!/usr/bin/env bash
# How much accuracy integer weights cost: trains a DSNN-18 with three seeds, and exports each without its pathway at 8 bits
# and at 4 bits after 2 epochs of fine-tuning.
#
#   scripts/integer_accuracy.sh                        scikit-learn's digits
#   scripts/integer_accuracy.sh ~/data/cifar10         a folder with train/<class>/ and test/<class>/ of 32x32 images
# Anything else is passed on to cifar/train.py, e.g. --fused or --epochs 30.
source "$(dirname "$0")/setup_env.sh"
setup_env requirements.txt
data=digits folder=()
options=(--dataset digits --stem imagenet --width 16 --surrogate atan -b 32 --epochs 20)
if [ -d "${1:-}" ]; then
  data=$(basename "$1") folder=(--data "$1")
  options=(--dataset folder --data-path "$1" --stem cifar --width 16 --surrogate atan -b 64 --epochs 12)
  shift
fi
out=runs/integer_accuracy/$data
for seed in 0 1 2; do
  "$PYTHON" -m cifar.train "${options[@]}" --model dsnn18 --neuron IF --connect_f OR --seed $seed -j 2 --device cpu \
    --print-freq 1000 --overwrite --output-dir "$out/seed$seed" "$@"
  trained=$(ls "$out/seed$seed"/*/checkpoint_latest.pth)
  rm -rf "$out/seed$seed/8bits" "$out/seed$seed/4bits"
  "$PYTHON" -m utils.export --checkpoint "$trained" "${folder[@]}" --to integer --output "$out/seed$seed/8bits" | tail -12
  "$PYTHON" -m utils.export --checkpoint "$trained" "${folder[@]}" --to integer --bits 4 --finetune 2 \
    --output "$out/seed$seed/4bits" | tail -14
done
"$PYTHON" - "$out" <<'PYTHON'
import json, pathlib, sys
for bits in (8, 4):
    found = [json.loads(path.read_text()) for path in sorted(pathlib.Path(sys.argv[1]).glob(f"seed*/{bits}bits/comparison.json"))]
    pairs = [[100 * f[name] / f["images"] for name in ("right_original", "right_runtime")] for f in found]
    floats, whole = (sum(pair[i] for pair in pairs) / len(pairs) for i in (0, 1))
    each = ", ".join(f"{a:.2f} -> {b:.2f}" for a, b in pairs)
    print(f"{bits} bits: {floats:.2f} % in floats, {whole:.2f} % in integers, mean of {len(pairs)} seeds ({each})")
PYTHON
