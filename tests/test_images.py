"""Images that may come from anyone: a picture or one line, and nothing said beside it."""

import io

import numpy as np
import pytest
from full_spike.utils.data.images.folder import FORMATS, load_image
from hypothesis import given
from PIL import Image
from support.damages import bounded, damages, outcome

PIXELS = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8))
WAYS = [(name, {}) for name in FORMATS] + [
    ("TIFF", {"compression": compression}) for compression in ("tiff_deflate", "tiff_lzw", "jpeg", "packbits")
]


def saved(name, options):
    buffer = io.BytesIO()
    PIXELS.save(buffer, name, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "options"), WAYS, ids=lambda value: value if isinstance(value, str) else "-".join(value.values())
)
@bounded
@given(damage=damages())
def test_damaged_images(tmp_path, capfd, name, options, damage):
    path = tmp_path / "a"
    path.write_bytes(damage(saved(name, options)))
    found = outcome(load_image, path)
    assert found is None or found.mode == "RGB"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("compression", ["tiff_deflate", "tiff_lzw"])
def test_libtiff_has_nothing_to_add(tmp_path, capfd, compression):
    """Its errors are raised, and would be printed by itself besides."""
    content = saved("TIFF", {"compression": compression})
    middle = len(content) // 2
    path = tmp_path / "a.tif"
    path.write_bytes(content[: middle - 200] + b"\xff" * 400 + content[middle + 200 :])
    assert outcome(load_image, path) is None
    assert capfd.readouterr() == ("", "")
