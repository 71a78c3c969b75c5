"""Photographs as torchvision decodes and resizes them are those that Pillow makes, to 2/255."""

import numpy as np
import pytest
import torch
from PIL import Image

from full_spike.imagenet.data import load
from full_spike.utils.data.images import decode, load_image
from full_spike.utils.data.loading import make_loaders
from full_spike.utils.distributed import World, cores_of_each
from full_spike.utils.errors import UserError
from support.images import image_args, image_tree

CLOSE = 2.0 / 255


@pytest.mark.parametrize("options", ["", "--interpolation bicubic", "--channels 1", "--random-erase 0.5"])
def test_crops_are_the_same_and_pixels_close(tmp_path, options):
    root = image_tree(tmp_path, splits=("train", "val"), size=(60, 90), suffix="JPEG")
    found = []
    for loader in ("pil", "torchvision"):
        args = image_args("imagenet", f"--loader {loader} --train-crop-size 32 {options}", data_path=str(root))
        data = load(args, World())
        loaders = make_loaders(data.train, data.test, batch_size=4, workers=0, world=World(), seed=0)
        found.append([torch.cat([x for x, _ in batches]) for batches in (loaders.train, loaders.test)])
    std = torch.tensor(data.inputs["std"])[:, None, None]
    for theirs, ours in zip(*found, strict=True):
        assert theirs.std() > 0.3
        assert ((theirs - ours) * std).abs().max() <= CLOSE + 1e-6


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"quality": 30}])
def test_decoded_as_pillow_decodes(tmp_path, mode, how):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 4), dtype=np.uint8)
    image = Image.fromarray(pixels, "CMYK").convert(mode).resize((130, 90))
    path = tmp_path / "image.jpg"
    image.save(path, **how)
    found = decode(str(path))
    assert found.dtype == torch.uint8
    assert np.abs(found.permute(1, 2, 0).numpy().astype(int) - np.asarray(load_image(path)).astype(int)).max() <= 2


def test_what_is_no_whole_jpeg_is_left_to_pillow(tmp_path):
    path = tmp_path / "image.jpg"
    Image.new("RGB", (8, 8)).save(path, "PNG")
    assert decode(str(path)).size == (8, 8)
    Image.effect_noise((80, 80), 50).save(path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(UserError, match="cannot read the image"):
        decode(str(path))


@pytest.mark.parametrize(
    ("quota", "local", "cores"), [("max 100000", 1, 8), ("200000 100000", 1, 2), ("50000 100000", 1, 1), ("max", 3, 2)]
)
def test_cores_of_a_container_and_of_each_process(tmp_path, monkeypatch, quota, local, cores):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert cores_of_each(tmp_path) == cores
