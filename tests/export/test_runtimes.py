"""Networks on other runtimes: the same spikes, the same integers, and what is refused."""

import ctypes
import re
import subprocess
import sys

import nir
import numpy as np
import pytest
import torch

from full_spike import Stream, exact, quantize
from full_spike.models import create_model
from full_spike.utils.errors import UserError
from full_spike.utils.export import write_c, write_nir, write_onnx
from full_spike.utils.export.c import CRuntime
from full_spike.utils.export.compare import compare
from full_spike.utils.export.graph import Conv, Fire, Head
from full_spike.utils.export.nir import NirRuntime
from full_spike.utils.export.onnx import OnnxRuntime
from full_spike.utils.export.run import Runner, to_bytes
from full_spike.utils.measure.counter import ExactCounter
from support.deployed import digits, in_floats, inputs, network

NETWORKS = [
    ("fsnn18", "OR", {}),
    ("fsnn18", "IAND", {"stem": "imagenet"}),
    ("fsnn34", "IAND", {"T": 2}),
    ("fsnn_7b", "OR", {}),
    ("fsnn_wide7b", "IAND", {"neuron": "IF"}),
    ("fsnn_7b", "AND", {"neuron": "LIF"}),
    ("fsnn_7b", "XOR", {"neuron": "LIF", "tau": 3.0}),
]
SPIKFORMER = ("fs_spikformer_4_384", "OR", {"width": 16, "heads": 2, "depth": 1, "patch": 2})
WRITE = {OnnxRuntime: write_onnx, NirRuntime: write_nir, CRuntime: write_c}
MULTIPLIES = re.compile(r"\t(i?mul\w*|v?pmul\w+|v?pmadd\w+|v?mul[ps][sd]|v?fn?m(add|sub)\w+|vpdp\w+)\s")


def written(folder, runtime, runner):
    """The runtime of a network that was written into a folder."""
    folder.mkdir(exist_ok=True)
    WRITE[runtime](runner.graph, folder)
    return runtime(folder, runner.graph)


def batches(x, size):
    return [(part, torch.zeros(part.shape[x.ndim - 4], dtype=torch.int64)) for part in x.split(size, x.ndim - 4)]


@pytest.mark.parametrize(
    ("name", "connect_f", "options", "runtime"),
    [(*each, runtime) for runtime in (OnnxRuntime, NirRuntime) for each in NETWORKS] + [(*SPIKFORMER, OnnxRuntime)],
)
def test_floats_fire_the_same_spikes_on_200_images(tmp_path, name, connect_f, options, runtime):
    model = network(name, connect_f, **options)
    x = inputs(model, 200)
    runner = exact(model, x.shape[-2:])
    found = compare(model, runner, written(tmp_path, runtime, runner), batches(x, 100))
    assert found.images == 200
    assert [layer.exported for layer in found.layers] == [0] * len(found.layers)
    assert found.classes_exported == 0
    assert found.logits_exported < 1e-5
    assert sum(layer.fired for layer in found.layers) > 0


@pytest.mark.parametrize(
    ("name", "connect_f", "options", "bits"), [(*each, 8) for each in NETWORKS] + [(*NETWORKS[i], 4) for i in (0, 4, 6)]
)
def test_integers_are_the_same_bit_for_bit_on_1000_images(tmp_path, name, connect_f, options, bits):
    model = network(name, connect_f, **options)
    x = inputs(model, 1000)
    runner = quantize(model, [x[:, :64] if x.ndim == 5 else x[:64]], bits)
    logits = runner(x)
    assert logits.dtype == torch.int32
    assert logits.float().std() > 0 or name == "fsnn_7b"
    few = x[:, :8] if x.ndim == 5 else x[:8]
    ours = runner.spikes(few)[0]
    for target in (OnnxRuntime, CRuntime):
        runtime = written(tmp_path / target.__name__, target, runner)
        assert torch.equal(runtime.logits(x), logits)
        theirs = runtime.spikes(few)[0]
        assert all(torch.equal(theirs[layer].bool(), spikes.bool()) for layer, spikes in ours.items())


@pytest.mark.parametrize("size", [14, 64])  # counts of up to 32, and of 512, two bytes
def test_the_batch_of_an_onnx_model_is_free_and_its_counts_may_pass_a_byte(tmp_path, size):
    model = create_model("fsnn18", width=2, stem="cifar", num_classes=3, T=8, in_channels=1).eval()
    x = torch.randn(5, 1, size, size)
    runner = Runner(quantize(model, [x]).graph)
    for node in runner.graph.of(Fire):
        node.threshold.fill_(-(2**20))  # always fires
    runtime = written(tmp_path, OnnxRuntime, runner)
    assert int(runner.run(x)[0].max()) == 8 * (size // 8 + size % 8 // 6) ** 2
    for count in (1, 5):
        assert torch.equal(runtime.logits(x[:count]), runner(x[:count]))


def test_other_logits_are_noticed_where_no_class_differs():
    """Also those of the way that is taken where nobody asks for spikes."""
    model = network("fsnn18", "OR")
    runner = quantize(model, [digits(4)])

    class Other:
        spikes = runner.spikes

        def __init__(self, more):
            self.logits = lambda x: runner(x) + more

    for more in (0, 1):
        found = compare(model, runner, Other(more), [(digits(6), torch.zeros(6))])
        assert (found.same, found.classes_exported) == (not more, 0)


# C


@pytest.fixture(scope="module", params=[("fsnn18", "OR"), ("fsnn_wide7b", "XOR")])
def in_c(request, tmp_path_factory):
    name, connect_f = request.param
    model = network(name, connect_f, neuron="IF")
    runner = quantize(model, [inputs(model, 32)])
    return model, runner, written(tmp_path_factory.mktemp("c"), CRuntime, runner)


@pytest.mark.parametrize("stream", [(), ("-DCLASSIFY_STREAM",)])
def test_the_body_has_no_multiplication(in_c, stream):
    _, _, runtime = in_c
    path = runtime.compile("plain.o", "-c", *stream)
    listing = subprocess.run(["objdump", "-d", "--no-show-raw-insn", path], capture_output=True, text=True)
    functions = dict(re.findall(r"<([\w.]+)>:\n((?:.+\n)+)", listing.stdout))
    functions = {name.split(".")[0]: code for name, code in functions.items()}  # of which a compiler makes special ones
    assert {"run", "classify", "add_spikes", "fire"} <= functions.keys()
    assert ("classify_step" in functions) == bool(stream)
    assert MULTIPLIES.search(functions.pop("multiply_bytes"))  # of the image alone
    assert [name for name, code in functions.items() if MULTIPLIES.search(code)] == []


def test_additions_are_those_of_the_exact_counter(in_c):
    """Counted by the C code while it runs, and on the same network of spikingjelly's neurons."""
    model, runner, runtime = in_c
    graph, x = runner.graph, inputs(model, 6)
    plain = in_floats(model, runner)
    with ExactCounter(plain) as counter, torch.no_grad():
        plain(to_bytes(graph, x).double() - graph.zero)
    expected = {row.name: round(row.ac * counter.images) for row in counter.rows()}
    counters = (ctypes.c_uint64 * len(graph.nodes)).in_dll(runtime.watched, "classify_additions")
    before = list(counters)
    runtime.spikes(x)
    counted = {node.name: counters[i] - before[i] for i, node in enumerate(graph.nodes)}
    body = [node.name for node in graph.of(Conv) if node is not graph.stem]
    assert {name: counted[name] for name in body} == {name: expected[name] for name in body}
    assert sum(counted[name] for name in body) > 0
    assert counted[graph.head.name] == expected["avgpool"] * graph.head.shape[0]


def test_frame_after_frame_is_the_same_in_c(in_c):
    model, runner, runtime = in_c
    x = inputs(model, 2)
    x = x[:, :1] if x.ndim == 5 else x[:1]
    whole, logits = runner.spikes(x)
    stream, library = Stream(runner), runtime.library("stream", "STREAM", "WATCH")
    scores = np.zeros(10, dtype=np.int32)
    for _ in range(2):  # `classify_reset` forgets
        stream.reset()
        library.classify_reset()
        with runtime.watching(library, 1) as theirs:
            for frame in x if x.ndim == 5 else [x] * 4:
                stepped = np.ascontiguousarray(to_bytes(runner.graph, frame)[0].numpy())
                library.classify_step(stepped.ctypes.data_as(ctypes.c_void_p))
                best = library.classify_logits(scores.ctypes.data_as(ctypes.c_void_p))
                expected = stream.step(frame)[0]
                assert torch.equal(torch.from_numpy(scores), expected)
                assert best == int(expected.argmax())
    assert torch.equal(expected, logits[0])
    assert theirs.keys() == whole.keys()
    assert all(torch.equal(theirs[name], spikes) for name, spikes in whole.items())


def test_flash_and_ram_are_what_the_tables_take(in_c):
    """Of the steps' spikes, a bit each, and a row of membranes and sums; or of all membranes, frame by frame."""
    _, runner, runtime = in_c
    graph = runner.graph
    weights = sum(node.weight.numel() for node in graph.of(Conv, Head))
    shapes = [node.shape for node in graph.of(Fire)]
    maps = [-(-c // 8) * h * w for c, h, w in shapes]
    neurons, row = sum(int(np.prod(shape)) for shape in shapes), max(c * w for c, _, w in shapes)
    flash, ram = runtime.memory()
    assert weights < flash < 2 * weights + 60_000
    assert graph.T * 2 * max(maps) + 8 * row <= ram <= graph.T * 3 * max(maps) + 8 * row + 200
    _, kept = runtime.memory("-DCLASSIFY_STREAM")
    assert 4 * neurons < kept < 4 * neurons + 3 * max(maps) + 4 * row + 200


# What is refused


def test_only_nodes_that_simulators_know_are_written(tmp_path):
    written(tmp_path, NirRuntime, exact(network("fsnn_7b", "XOR", neuron="LIF"), (14, 14)))
    kinds = {type(node).__name__ for node in nir.read(tmp_path / "model.nir").nodes.values()}
    assert kinds == {"Input", "Conv2d", "LIF", "IF", "SumPool2d", "Flatten", "Affine", "Output"}
    name, connect_f, options = SPIKFORMER
    runner = exact(network(name, connect_f, **options), (14, 14))
    with pytest.raises(ValueError, match="is attention, which counts spikes"):
        write_nir(runner.graph, tmp_path)


def test_sums_become_no_nir(tmp_path):
    runner = exact(create_model("sew_resnet18", width=4, stem="cifar").eval(), (8, 8))
    with pytest.raises(ValueError, match=r"layer1\.0\.join adds"):
        write_nir(runner.graph, tmp_path)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(written(tmp_path, OnnxRuntime, runner).logits(x), runner(x))  # which adds


def test_damaged_files_are_one_line(tmp_path):
    runner = exact(network("fsnn18", "OR"), (14, 14))
    for runtime, name in ((OnnxRuntime, "model.onnx"), (NirRuntime, "model.nir")):
        written(tmp_path, runtime, runner)
        content = (tmp_path / name).read_bytes()
        for damaged in (content[: len(content) // 2], b"", b"hello"):
            (tmp_path / name).write_bytes(damaged)
            with pytest.raises(UserError, match=r"is damaged or no (ONNX model|NIR file) .*: export it again"):
                runtime(tmp_path, runner.graph)


def test_code_that_does_not_compile_is_one_line(tmp_path):
    runner = quantize(network("fsnn_7b", "OR"), [inputs(network("fsnn_7b", "OR"), 4)])
    (tmp_path / "classify.c").write_text("int classify(;\n")
    with pytest.raises(UserError, match=r"does not compile .*classify\.c: .*error"):
        CRuntime(tmp_path, runner.graph)


@pytest.mark.parametrize(
    ("missing", "needed"), [("onnx", "onnx onnxruntime"), ("onnxruntime", "onnx onnxruntime"), ("nir", "nir nirtorch")]
)
def test_a_missing_package_is_one_line_that_says_what_to_install(missing, needed, monkeypatch):
    from full_spike.utils.export import nir, onnx

    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=rf"{missing} .*is not installed: pip install {needed}$"):
        nir.import_nir() if missing == "nir" else onnx.import_onnx()
