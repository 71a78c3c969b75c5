"""Pictures of event data show what the file holds and what the network fires; what does not work is one line."""

import shutil

import numpy as np
import pytest
import torch
from full_spike.models import create_model
from full_spike.utils import show_events
from full_spike.utils import checkpoint
from full_spike.utils.trained import set_norms
from full_spike.utils.data.events.aedat import write_aedat2, write_aedat3
from full_spike.utils.data.events.frames import integrate
from full_spike.utils.data.npz import write_npz
from full_spike.utils.draw.frames import frames_picture
from full_spike.utils.draw.spikes import record_spikes, spikes_figure
from full_spike.utils.errors import UserError
from matplotlib import pyplot as plt
from PIL import Image
from spikingjelly.activation_based.neuron import BaseNode
from support.command import refused, run, succeed
from support.events import classes, gestures, load, noise

SHOW = "utils.show_events"
T, SIZE = 5, 32
EVENTS = noise(2000)


def write_events(folder, suffix):
    path = folder / f"noise{suffix}"
    if suffix == ".aedat":
        write_aedat3(path, EVENTS)
    elif suffix == "2.aedat":
        write_aedat2(path, EVENTS)
    else:
        write_npz(path, **EVENTS)
    return path


def save(model, path, **more):
    checkpoint.write(path, {"config": model.config, "model": model.state_dict(), **more})
    return path


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = create_model("dsnn_7b", width=4, T=T)
    set_norms(model, torch.from_numpy(integrate(noise(4000), T, SIZE)).float().unsqueeze(1).repeat(1, 2, 1, 1, 1))
    return model.eval()


@pytest.fixture(scope="module")
def trained(network, tmp_path_factory):
    return save(network, tmp_path_factory.mktemp("run") / "trained.pth", recipe={"frame_size": SIZE})


# Frames


@pytest.mark.parametrize("suffix", [".aedat", "2.aedat", ".npz"])
def test_the_animation_shows_every_pixel_of_every_frame(tmp_path, suffix):
    path = write_events(tmp_path, suffix)
    out = succeed(SHOW, path, "--T", T, "--frame-size", SIZE, "--output", tmp_path / "pictures")
    share = 100 * EVENTS["p"].mean()
    ms = np.ptp(EVENTS["t"]) / 1000
    first, *rest = out.splitlines()
    assert first == (
        f"{path.name}: 2,000 events in {ms:.1f} ms, {share:.1f} % brighter, {100 - share:.1f} % darker, "
        "128x128 pixels shown as 32x32"
    )
    written = [tmp_path / "pictures" / f"{path.stem}_frames.{kind}" for kind in ("png", "gif")]
    assert rest == [f"wrote {file}" for file in written]
    assert_animation(written[1], integrate(EVENTS, T, SIZE))


def assert_animation(path, frames):
    """Equal counts have equal colours, different counts (up to the common scale) different ones, in every frame."""
    scale = max(1, int(np.percentile(frames[frames > 0], 99)))
    clipped = np.minimum(frames, scale)
    with Image.open(path) as gif:
        assert gif.n_frames == len(frames)
        colour = {}
        for i, (darker, brighter) in enumerate(clipped):
            gif.seek(i)
            zoom = gif.width // frames.shape[3]
            pixels = np.asarray(gif.convert("RGB"))[: zoom * frames.shape[2]]
            assert (pixels == pixels[::zoom, ::zoom].repeat(zoom, 0).repeat(zoom, 1)).all()
            for d, b, rgb in zip(darker.flat, brighter.flat, pixels[::zoom, ::zoom].reshape(-1, 3), strict=True):
                assert colour.setdefault((d, b), tuple(rgb)) == tuple(rgb)
    assert len(set(colour.values())) == len(colour) > 3
    assert colour[0, 0] == (255, 255, 255)
    assert colour[1, 0][2] > colour[1, 0][0]  # darker is bluish
    assert colour[0, 1][0] > colour[0, 1][2]  # brighter is reddish


def test_the_picture_has_the_pixels_of_the_frames(tmp_path):
    """One event of either polarity is one pixel of its colour, also at the edge of a frame."""
    frames = np.zeros((3, 2, 128, 128), np.uint8)
    for i, polarity in enumerate((0, 1, 0)):
        frames[i, polarity, 10 * i : 10 * i + 5, 40:60] = 1
    frames_picture(frames, None, "a title", tmp_path / "picture.png")
    pixels = np.asarray(Image.open(tmp_path / "picture.png").convert("RGB")).astype(int)
    for colour, count in (((0, 114, 178), 200), ((213, 94, 0), 100)):
        here = (pixels == colour).all(axis=2)
        here[-70:] = False  # the scales
        assert here.sum() == count


def test_frames_that_are_the_same_are_all_shown(tmp_path):
    frames = np.zeros((6, 2, 8, 8), np.uint8)
    frames[:, 0, 2, 2] = 1
    write_npz(tmp_path / "same.npz", frames=frames)
    out = succeed(SHOW, tmp_path / "same.npz", "--output", tmp_path)
    assert out.startswith("same.npz: 6 events, times not kept, 0.0 % brighter, 100.0 % darker, 8x8 pixels\n")
    with Image.open(tmp_path / "same_frames.gif") as gif:
        assert gif.n_frames == 6


def test_what_the_data_sets_keep_can_be_shown(tmp_path):
    """Frames shown from the frames' file are those shown from the events' file and from the recording."""
    root = classes(tmp_path / "data", count=60)

    load("cifar10dvs", root, "--T", 4, "--frame-size", 32)
    name = next((root / "extract").rglob("*_0.aedat")).stem
    files = sorted(root.rglob(f"{name}.*"))
    assert [file.suffix for file in files] == [".aedat", ".npz", ".npz"]
    seen = set()
    for i, file in enumerate(files):
        succeed(SHOW, file, "--T", 4, "--frame-size", 32, "--output", tmp_path / str(i))
        with Image.open(tmp_path / str(i) / f"{name}_frames.gif") as gif:
            images = []
            for frame in range(gif.n_frames):
                gif.seek(frame)
                images.append(np.asarray(gif.convert("RGB"))[: gif.width].tobytes())
        seen.add(tuple(images))
    assert len(seen) == 1


def test_a_trial_of_a_gesture_recording(tmp_path):
    folder = gestures(tmp_path, count=4) / "extract" / "DvsGesture"
    recording = folder / "user01_led.aedat"
    _, start, end = (folder / "user01_led_labels.csv").read_text().splitlines()[2].split(",")
    by_row = succeed(SHOW, recording, "--trial", 2, "--output", tmp_path)
    window = succeed(SHOW, recording, "--start-us", start, "--end-us", end, "--output", tmp_path)
    assert by_row.splitlines()[0] == window.splitlines()[0]
    one, other = tmp_path / "user01_led_trial2_frames.gif", tmp_path / f"user01_led_{start}-{end}us_frames.gif"
    assert one.read_bytes() == other.read_bytes()
    refusal = refused(SHOW, recording, "--trial", 3, status=1, how=run)
    assert "lists 2 trials: use 1 to 2" in refusal
    refusal = refused(SHOW, recording, "--start-us", 10**9, status=1, how=run)
    assert "has no event from 1000000000 us to its end: its events are from" in refusal


# Spikes


def test_the_raster_shows_the_networks_spikes(network):
    frames = torch.from_numpy(integrate(EVENTS, T, SIZE)).float().unsqueeze(1)
    fired = {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, name=name: fired.update({name: out.flatten(1)}))
        for name, module in network.named_modules()
        if isinstance(module, BaseNode)
    ]
    layers, _ = record_spikes(network, frames)
    for hook in hooks:
        hook.remove()
    figure = spikes_figure(layers, None, "title")
    raster, rates = figure.axes[:2]
    assert [layer.name for layer in layers] == list(fired)
    drawn = raster.collections
    assert len(drawn) == len(layers) == 15
    for i, (layer, lines) in enumerate(zip(layers, drawn, strict=True)):
        truth = fired[layer.name]
        assert layer.neurons == truth.shape[1]
        assert len(set(layer.chosen)) == len(layer.chosen) == min(64, layer.neurons)
        points = {(segment[:, 0].mean(), segment[0, 1]) for segment in lines.get_segments()}
        step, neuron = np.nonzero(truth[:, layer.chosen].numpy())
        expected = {(t + 1.0, i + (n + 0.5) / len(layer.chosen)) for t, n in zip(step, neuron, strict=True)}
        assert {(round(x, 6), round(y, 6)) for x, y in points} == {(round(x, 6), round(y, 6)) for x, y in expected}
        np.testing.assert_allclose(rates.images[0].get_array()[i], 100 * truth.mean(1), rtol=1e-5)
    assert sum(len(lines.get_segments()) for lines in drawn) > 50
    plt.close(figure)
    again, _ = record_spikes(network, frames)
    assert all(
        (a.spikes == b.spikes).all() and (a.chosen == b.chosen).all() for a, b in zip(layers, again, strict=True)
    )


def test_a_network_is_shown_as_it_was_trained(network, trained, tmp_path):
    """T, the size of frames and the model's name come from the checkpoint; its trunk's class is what it would say."""
    path = write_events(tmp_path, ".npz")
    out = succeed(SHOW, path, "--checkpoint", trained, "--output", tmp_path).splitlines()
    with torch.no_grad():
        logits, pathway = network(torch.from_numpy(integrate(EVENTS, T, SIZE)).float().unsqueeze(1))
    assert out[1].startswith(f"predicted class: {int(logits.argmax())} (fsnn, {100 * logits.softmax(1).max():.1f} %), ")
    assert f", {int(pathway.argmax())} (aap, " in out[1]
    assert out[-1] == f"wrote {tmp_path / 'noise_spikes.png'}"
    with Image.open(tmp_path / "noise_spikes.png") as picture:
        assert min(picture.size) > 500


# What does not work


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def bad_files(folder):
    for suffix in (".aedat", "2.aedat", ".npz"):
        cut(write_events(folder, suffix))
    (folder / "text.txt").write_text("hello")
    (folder / "empty.aedat").write_bytes(b"")
    write_npz(folder / "few.npz", **noise(10))
    write_npz(folder / "none.npz", **noise(0))
    write_npz(folder / "other.npz", weights=np.ones(3))
    write_npz(folder / "wide.npz", **{**noise(10), "x": np.full(10, 200)})
    write_npz(folder / "uneven.npz", **{**noise(10), "x": np.zeros(9)})
    write_npz(folder / "rgb.npz", frames=np.ones((4, 3, 8, 8)))
    write_npz(folder / "black.npz", frames=np.zeros((4, 2, 8, 8)))
    np.savez(folder / "pickled.npz", frames=np.array([{}], dtype=object))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.aedat", "there is no file"),
        (".", "is a folder: name a file in it"),
        ("noise.aedat", "is cut off or damaged: the packet at byte"),
        ("noise2.aedat", "is cut off: 15995 bytes of events are no multiple of 8"),
        ("noise.npz", "is damaged or no .npz file"),
        ("text.txt", "is neither a recording (AEDAT 3.1 or 2.0) nor an .npz file"),
        ("empty.aedat", "is neither a recording"),
        ("few.npz", "10 events do not fill T=16 frames: use a smaller --T"),
        ("none.npz", "holds no events"),
        ("other.npz", "holds weights: t, x, y and p, or frames, are needed"),
        ("wide.npz", "has an event of x=200, outside 0..127"),
        ("uneven.npz", "are not whole numbers, or not as many of each"),
        ("rgb.npz", "has frames of shape (4, 3, 8, 8)"),
        ("black.npz", "holds no events"),
        ("pickled.npz", "is damaged or no .npz file of numbers"),
    ],
)
def test_files_that_cannot_be_shown(tmp_path, name, message):
    bad_files(tmp_path)
    with pytest.raises(UserError) as error:
        show_events.main([str(tmp_path / name), "--output", str(tmp_path / "out")])
    assert error.value.exit_status == 1
    assert message in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ("--T 0", 2, "--T: 0 is below 1"),
        ("--T 2001", 2, "--T 2001 is out of range"),
        ("--frame-size 48", 2, "--frame-size 48 does not divide 128"),
        ("--trial 1", 1, "--trial 1: there is no"),
        ("--trial 1 --start-us 5", 2, "leave out --start-us and --end-us"),
        ("--model fsnn_7b", 2, "there is no --checkpoint"),
        ("--checkpoint FOLDER/missing.pth", 1, "there is no checkpoint"),
        ("--checkpoint FOLDER/images.pth", 1, "2 channels, not 3: use a network that was trained on such event data"),
        ("--checkpoint FOLDER/bare.pth", 2, "does not say which network it is of: name it with --model"),
        ("--checkpoint FOLDER/bare.pth --model fsnn_7b", 1, "bare.pth: "),
        ("--checkpoint FOLDER/trained.pth --T 6", 2, "was saved from another network (T=5 instead of 6)"),
        ("--checkpoint FOLDER/trained.pth --model fsnn_7b", 2, "was saved from another network (model=dsnn_7b"),
    ],
)
def test_commands_that_cannot_work(tmp_path, network, trained, options, status, message):
    shutil.copy(trained, tmp_path)
    save(create_model("fsnn18", width=4, num_classes=3, T=2), tmp_path / "images.pth")
    torch.save(network.state_dict(), tmp_path / "bare.pth")
    path = write_events(tmp_path, ".npz")
    arguments = options.replace("FOLDER", str(tmp_path)).split()
    with pytest.raises(UserError) as error:
        show_events.main([str(path), "--output", str(tmp_path / "out"), *arguments])
    assert error.value.exit_status == status
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_frames_of_another_number_than_the_network_was_trained_on(tmp_path, trained):
    write_npz(tmp_path / "f.npz", frames=np.ones((4, 2, SIZE, SIZE), np.uint8))
    with pytest.raises(UserError, match="holds T=4 frames of 32x32 pixels, and T=5 of 32 pixels are wanted"):
        show_events.main([str(tmp_path / "f.npz"), "--checkpoint", str(trained), "--output", str(tmp_path)])
    with pytest.raises(UserError, match="--start-us is for events"):
        show_events.main([str(tmp_path / "f.npz"), "--start-us", "3", "--output", str(tmp_path)])
