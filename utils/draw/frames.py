"""Pictures of event frames: a grid of them, and an animation, in colours that do not need red told from green."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from full_spike.utils.draw.backend import pyplot

DARKER, BRIGHTER = (0, 114, 178), (213, 94, 0)  # blue and vermilion of Okabe and Ito, for polarities 0 and 1
LEVELS = 15  # of each polarity, besides none: 16 x 16 colours are as many as a GIF has
FAINTEST = 0.25  # how much of its colour a single event gets, however many the scale ends at

DPI = 100
FINEST = 1 << 12  # steps of a scale of colours
COLUMNS = 8
PICTURE_SIDE = 128  # pixels, about: a frame's pixel is a whole number of them
GAP = 12  # pixels between frames
NARROWEST = 720  # pixels, for the title and the scales
GIF_SIDE = 384  # pixels, about: a frame's pixel is a whole number of them
GIF_CAPTION = 30  # pixels below the frame
GIF_SECONDS = 4.0  # for all frames, each as long as the others, within what one can follow

Times = Sequence[tuple[float, float]]  # first and last event of each frame, in ms


def _palette() -> np.ndarray:
    """RGB [256, 3] of level(darker) * 16 + level(brighter), as two inks on white paper: both together are dark."""
    share = np.arange(LEVELS + 1) / LEVELS
    share = np.where(share > 0, FAINTEST + (1 - FAINTEST) * share, 0.0)[:, None]
    blue, orange = (1 - share * (1 - np.array(ink) / 255) for ink in (DARKER, BRIGHTER))
    return np.rint(255 * blue[:, None] * orange[None]).astype(np.uint8).reshape(-1, 3)


PALETTE = _palette()
_INK = len(PALETTE) - 1  # both polarities in full, nearly black: what captions are written in


def common_scale(frames: np.ndarray) -> int:
    """The count at which colours end: a hundredth of the pixels with events has more."""
    return max(1, int(np.percentile(frames[frames > 0], 99)))


def colour_indices(frames: np.ndarray, scale: int) -> np.ndarray:
    """Rows of PALETTE [T, H, W], uint8, of counts [T, 2, H, W]; one event is told from none, whatever the scale."""
    levels = np.ceil(np.minimum(frames / scale, 1.0) * LEVELS).astype(np.uint8)
    return levels[:, 0] * np.uint8(LEVELS + 1) + levels[:, 1]


def clock(*times: float, whole: float) -> str:
    """A time, or from when to when, with digits that suit the length of the whole; all in ms."""
    factor, unit = (1000, "s") if whole >= 10_000 else (1, "ms")
    digits = 1 if factor > 1 or whole < 100 else 0
    return "-".join(f"{time / factor:.{digits}f}" for time in times) + f" {unit}"


def _captions(count: int, times: Times | None) -> list[str]:
    if times is None:
        return [f"frame {i + 1}" for i in range(count)]
    return [f"{i + 1}: {clock(*time, whole=times[-1][1])}" for i, time in enumerate(times)]


def _cells(T: int, height: int, width: int) -> tuple[int, int, int, int]:
    """(pixels of the picture for each of a frame's, columns, rows, width that the columns take)."""
    zoom = max(1, PICTURE_SIDE // max(height, width))
    columns = min(COLUMNS, T)
    return zoom, columns, -(-T // columns), columns * (zoom * width + GAP) + GAP


def picture_size(T: int, height: int, width: int) -> tuple[int, int]:
    """(width, height) in pixels of what `frames_picture` writes of T frames of this size."""
    zoom, _, rows, used = _cells(T, height, width)
    return max(used, NARROWEST), 40 + rows * (zoom * height + 26) + 66


def frames_picture(frames: np.ndarray, times: Times | None, title: str, path: Path) -> None:
    """Write a PNG of frames [T, 2, H, W], each pixel a square of whole ones, with a scale for each polarity."""
    plt = pyplot()
    scale = common_scale(frames)
    T, _, *size = frames.shape
    zoom, columns, _, used = _cells(T, *size)
    width, height = picture_size(T, *size)
    cell_height, cell_width = (zoom * side for side in size)
    figure = plt.figure(figsize=(width / DPI, height / DPI), dpi=DPI)

    def place(left: int, top: int, wide: int, high: int) -> Any:
        """Axes at these pixels, counted from the upper left."""
        return figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))

    images = PALETTE[colour_indices(frames, scale).repeat(zoom, axis=1).repeat(zoom, axis=2)]
    for i, caption in enumerate(_captions(len(frames), times)):
        left = (width - used) // 2 + GAP + i % columns * (cell_width + GAP)
        top = 60 + i // columns * (cell_height + 26)
        figure.figimage(images[i], left, height - top - cell_height, origin="upper")  # axes would round its edges
        axes = place(left - 1, top - 1, cell_width + 2, cell_height + 2)
        axes.set_title(caption, fontsize=8, pad=4)
        axes.set(xticks=[], yticks=[], facecolor="none")
        axes.spines[:].set(linewidth=0.5, position=("outward", 0.5))
    counts = np.rint(np.linspace(0, scale, min(scale, FINEST) + 1))  # each one, unless there are too many
    for polarity, name in enumerate(("darker", "brighter")):
        only = np.zeros((len(counts), 2, 1, 1))
        only[:, polarity, 0, 0] = counts
        bar = place(width // 2 * polarity + 30, height - 50, width // 2 - 60, 12)
        half = scale / (len(counts) - 1) / 2
        bar.imshow(
            PALETTE[colour_indices(only, scale)].reshape(1, -1, 3),
            interpolation="nearest",
            aspect="auto",
            extent=(-half, scale + half, 0, 1),
        )
        step = -(-scale // 8)
        shown = [*range(0, scale - step + 1, step), scale]
        more = frames.max() > scale
        bar.set_xticks(shown, [f"{n}{' or more' * bool(more and n == scale)}" for n in shown], fontsize=8)
        bar.set(yticks=[])
        bar.set_xlabel(f"{name}: events of a pixel in a frame", fontsize=8, labelpad=2)
    figure.suptitle(title, fontsize=11, y=1 - 8 / height, va="top", parse_math=False)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def frames_gif(frames: np.ndarray, times: Times | None, path: Path) -> None:
    """Write an animation of frames [T, 2, H, W], slowly and without end: times below, and how far it has come."""
    from PIL import Image, ImageDraw, ImageFont

    indices = colour_indices(frames, common_scale(frames))
    zoom = max(1, GIF_SIDE // max(indices.shape[1:]))
    indices = indices.repeat(zoom, axis=1).repeat(zoom, axis=2)
    height, width = indices.shape[1:]
    font = ImageFont.load_default(15)
    images = []
    for i, caption in enumerate(_captions(len(frames), times)):
        image = Image.fromarray(np.pad(indices[i], ((0, GIF_CAPTION), (0, 0))))
        image.putpalette(PALETTE.tobytes())
        draw = ImageDraw.Draw(image)
        draw.fontmode = "1"  # the palette has no greys to soften edges with
        draw.text((4, height + 2), caption, fill=_INK, font=font)
        # it grows with each frame, also because Pillow makes one of two that are the same
        draw.rectangle((0, height + GIF_CAPTION - 5, (i + 1) * width // len(frames) - 1, height + GIF_CAPTION), _INK)
        images.append(image)
    duration = round(min(max(1000 * GIF_SECONDS / len(frames), 40), 400))
    images[0].save(path, save_all=True, append_images=images[1:], duration=duration, loop=0, optimize=False)
