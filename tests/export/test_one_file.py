"""What is exported is enough to predict: ONNX Runtime and NumPy alone, and a program in C or C++ with two networks."""

import json
import subprocess
import sys

import pytest
import torch
from PIL import Image

from full_spike import create_model, save_pretrained, transform
from full_spike.utils.data.images import load_image
from full_spike.utils.export.c import compiler
from support.deployed import network
from support.refusals import command

EXPORT = "full_spike.utils.export"

PREDICT = """
import json, sys
import numpy as np, onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("model.onnx")
said = session.get_modelmeta().custom_metadata_map
inputs, names = json.loads(said["inputs"]), json.loads(said["classes"])
image = Image.open("photo.jpg").convert("RGB")
short, size = inputs["resize"], inputs["crop"]
width, height = (max(short, short * side // min(image.size)) for side in image.size)
image = image.resize((width, height), Image.Resampling.BILINEAR)
left, top = round((width - size) / 2), round((height - size) / 2)
x = np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.float32) / 255
x = ((x - np.float32(inputs["mean"])) / np.float32(inputs["std"])).transpose(2, 0, 1)[None]
logits = session.run(None, {session.get_inputs()[0].name: x})[0][0] * float(said["logit_scale"])
p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
assert not any(name.split(".")[0] in ("torch", "full_spike") for name in sys.modules)
print(json.dumps([names[int(p.argmax())], float(p.max())]))
"""


@pytest.mark.parametrize("bits", [None, 8])
def test_onnx_predicts_with_what_its_file_says(tmp_path, bits):
    out = tmp_path / "out"
    given = ["--bits", bits] if bits else []
    done = command(EXPORT, "--checkpoint", "cifar10", "--model", "fsnn18", "--to", "onnx", "--output", out, *given)
    assert done.status == 0, done.err
    torch.manual_seed(0)
    pixels = torch.randint(256, (5, 7, 3), dtype=torch.uint8).numpy()
    Image.fromarray(pixels).resize((70, 50), Image.Resampling.BICUBIC).save(out / "photo.jpg", quality=95)
    (out / "predict.py").write_text(PREDICT)
    found = subprocess.run([sys.executable, "-I", "predict.py"], cwd=out, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    name, probability = json.loads(found.stdout)
    model = create_model("fsnn18", pretrained="cifar10").eval()
    with torch.no_grad():
        expected = model(transform(model)(load_image(out / "photo.jpg"))[None])[0].softmax(0)
    assert name == model.classes[int(expected.argmax())]
    assert probability == pytest.approx(float(expected.max()), abs=0.1 if bits else 1e-3)


MAIN = """
#include <stdio.h>
#include "a.h"
#include "b.h"
int main(void) {{
  static uint8_t image[A_CHANNELS * A_HEIGHT * A_WIDTH];
  int32_t of_a[A_CLASSES], of_b[B_CLASSES];
  int i;
  for (i = 0; i < (int)sizeof image; i++) image[i] = (uint8_t)(i * 37 % 251);
  printf("%d %d", a(image, of_a), b(image, of_b));
  for (i = 0; i < A_CLASSES; i++) printf(" %d %d", (int)of_a[i], (int)of_b[i]);
  return 0;
}}
"""


def test_two_networks_in_one_program(tmp_path):
    """Their names do not meet, in C and in C++, and both give the same there."""
    for prefix, connect_f in (("a", "OR"), ("b", "IAND")):
        save_pretrained(network("fsnn18", connect_f, neuron="IF", T=2), tmp_path / "weights" / prefix)
        where = ["--to", "c", "--prefix", prefix, "--output", tmp_path / prefix, "--images", 2]
        done = command(EXPORT, "--checkpoint", tmp_path / "weights" / prefix, *where)
        assert done.status == 0, done.err
    (tmp_path / "main.c").write_text(MAIN.format())
    flags = ["-O1", "-pedantic", "-Wall", "-Wextra", "-Werror", f"-I{tmp_path}/a", f"-I{tmp_path}/b"]

    def run(*words):
        subprocess.run([compiler(), *map(str, words)], cwd=tmp_path, check=True)

    for prefix in "ab":
        run("-std=c99", *flags, "-c", tmp_path / prefix / f"{prefix}.c", "-o", f"{prefix}.o")
    printed = []
    for language, standard in (("c", "-std=c99"), ("c++", "-std=c++11")):
        run("-x", language, standard, *flags, "-c", "main.c", "-o", "main.o")
        run("main.o", "a.o", "b.o", "-o", "program")
        printed.append(
            subprocess.run([tmp_path / "program"], capture_output=True, text=True, check=True).stdout.split()
        )
    assert printed[0] == printed[1]
    a, b, *logits = map(int, printed[0])
    of_a, of_b = logits[::2], logits[1::2]
    assert of_a != of_b
    assert (a, b) == (of_a.index(max(of_a)), of_b.index(max(of_b)))
