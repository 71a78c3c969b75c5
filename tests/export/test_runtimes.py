"""Networks on other runtimes: the same spikes, the same integers, and what is refused."""

import ctypes
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from full_spike.models import create_model, graph, list_models
from full_spike.utils.errors import UserError
from full_spike.utils.export.compare import compare
from full_spike.utils.export.runtimes import CRuntime, OnnxRuntime, read_nir
from full_spike.utils.export.targets import TARGETS
from support.deployed import digits, inputs, network
from test_graph import counted

NETWORKS = [
    ("fsnn18", "OR", {}),
    ("fsnn18", "IAND", {"stem": "imagenet"}),
    ("fsnn34", "OR", {"T": 2}),
    ("fsnn34", "IAND", {"T": 2}),
    ("fsnn_7b", "OR", {}),
    ("fsnn_wide7b", "IAND", {"neuron": "IF"}),
    ("fsnn_7b", "AND", {"neuron": "LIF"}),
    ("fsnn_7b", "XOR", {"neuron": "LIF", "tau": 3.0}),
]
SPIKFORMER = ("fs_spikformer_4_384", "OR", {"width": 16, "heads": 2, "depth": 1, "patch": 2})
MULTIPLIES = re.compile(r"\t(i?mul\w*|v?pmul\w+|v?pmadd\w+|v?mul[ps][sd]|v?fn?m(add|sub)\w+|vpdp\w+)\s")


def written(folder, target, runner):
    """The runtime of a network that was written into a folder."""
    out, build = folder / "out", folder / "build"
    out.mkdir(), build.mkdir()
    TARGETS[target].write(runner, out)
    return TARGETS[target].open(out, runner.graph, build)


def batches(x, size):
    return [(part, torch.zeros(part.shape[x.ndim - 4], dtype=torch.int64)) for part in x.split(size, x.ndim - 4)]


@pytest.mark.parametrize(
    ("name", "connect_f", "options", "target"),
    [(*each, target) for target in ("onnx", "nir") for each in NETWORKS] + [(*SPIKFORMER, "onnx")],
)
def test_floats_fire_the_same_spikes_on_200_images(tmp_path, name, connect_f, options, target):
    model = network(name, connect_f, **options)
    x = inputs(model, 200)
    runner = graph.exact(model, x.shape[-2:])
    found = compare(model, runner, written(tmp_path, target, runner), batches(x, 100))
    assert found.images == 200
    assert [layer.exported for layer in found.layers] == [0] * len(found.layers)
    assert found.classes_exported == 0
    assert found.logits_exported < 1e-5
    assert sum(layer.fired for layer in found.layers) > 0


@pytest.mark.parametrize(
    ("name", "connect_f", "options", "bits"),
    [(*each, 8) for each in NETWORKS] + [(*NETWORKS[i], 4) for i in (0, 5, 7)],
)
def test_integers_are_the_same_bit_for_bit_on_1000_images(tmp_path, name, connect_f, options, bits):
    model = network(name, connect_f, **options)
    x = inputs(model, 1000)
    runner = graph.quantize(model, [x[:, :64] if x.ndim == 5 else x[:64]], bits)
    logits = runner(x)
    assert logits.dtype == torch.int32
    assert logits.float().std() > 0 or name == "fsnn_7b"
    for target in ("onnx", "c"):
        (tmp_path / target).mkdir()
        runtime = written(tmp_path / target, target, runner)
        assert torch.equal(runtime.logits(x), logits)
        few = x[:, :8] if x.ndim == 5 else x[:8]
        ours, theirs = runner.spikes(few)[0], runtime.spikes(few)[0]
        assert all(torch.equal(theirs[layer].bool(), spikes.bool()) for layer, spikes in ours.items())


def test_the_batch_of_an_onnx_model_is_free_and_its_counts_may_pass_a_byte(tmp_path):
    model = network("fsnn18", "OR", T=8)
    runner = graph.Runner(graph.quantize(model, [digits(8)]).graph)
    for node in runner.graph.of_kind("fire")[-2:]:
        node.threshold.fill_(-(2**20))  # the last layer always fires: 8 steps of 2 x 2 neurons
    runtime = written(tmp_path, "onnx", runner)
    for count in (1, 5):
        assert torch.equal(runtime.logits(digits(count)), runner(digits(count)))
    big = create_model("fsnn18", width=2, stem="cifar", num_classes=3, T=8, in_channels=1).eval()
    x = torch.randn(2, 1, 64, 64)
    runner = graph.Runner(graph.quantize(big, [x]).graph)
    for node in runner.graph.of_kind("fire"):
        node.threshold.fill_(-(2**20))
    (tmp_path / "big").mkdir()
    assert torch.equal(written(tmp_path / "big", "onnx", runner).logits(x), runner(x))
    counts, _ = runner.run(x)
    assert int(counts.max()) == 8 * 8 * 8


# C


@pytest.fixture(scope="module", params=[("fsnn18", "OR"), ("fsnn_wide7b", "XOR")])
def in_c(request, tmp_path_factory):
    name, connect_f = request.param
    model = network(name, connect_f, neuron="IF")
    runner = graph.quantize(model, [inputs(model, 32)])
    folder = tmp_path_factory.mktemp("c")
    return model, runner, written(folder, "c", runner), folder


def test_the_body_has_no_multiplication(in_c):
    _, _, runtime, folder = in_c
    runtime.compile(folder / "plain.o", "-c")
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", folder / "plain.o"], capture_output=True, text=True
    )
    functions = dict(re.findall(r"<([\w.]+)>:\n((?:.+\n)+)", listing.stdout))
    functions = {name.split(".")[0]: code for name, code in functions.items()}  # of which a compiler makes special ones
    assert {"body", "classify", "classify_step"} <= functions.keys()
    assert MULTIPLIES.search(functions.pop("multiply_bytes"))  # of the image alone
    for name, code in functions.items():
        assert not MULTIPLIES.search(code), name


def test_additions_are_those_of_the_exact_counter(in_c):
    model, runner, runtime, _ = in_c
    x = inputs(model, 6)
    expected = counted(model, runner, x)
    additions = runtime.additions(x)
    body = [node.name for node in runner.graph.of_kind("conv") if node is not runner.graph.stem]
    assert {name: additions[name] for name in body} == {name: expected[name] for name in body}
    assert sum(additions[name] for name in body) > 0
    classes = runner.graph.head.shape[0]
    assert additions[runner.graph.head.name] == expected["avgpool"] * classes


def test_frame_after_frame_is_the_same_in_c(in_c):
    model, runner, runtime, _ = in_c
    x = inputs(model, 2)
    x = x[:, :1] if x.ndim == 5 else x[:1]
    whole, logits = runner.spikes(x)
    stream, library = graph.Stream(runner), runtime.watched
    scores = np.zeros(10, dtype=np.int32)
    for _ in range(2):  # `classify_reset` forgets
        stream.reset()
        library.classify_reset()
        with runtime.watching() as seen:
            for frame in x if x.ndim == 5 else [x] * 4:
                stepped = np.ascontiguousarray(runner.quantised(frame)[0].numpy())
                library.classify_step(stepped.ctypes.data_as(ctypes.c_void_p))
                best = library.classify_logits(scores.ctypes.data_as(ctypes.c_void_p))
                expected = stream.step(frame)[0]
                assert torch.equal(torch.from_numpy(scores), expected)
                assert best == int(expected.argmax())
    assert torch.equal(expected, logits[0])
    theirs = runtime.maps(seen, 1)
    assert theirs.keys() == whole.keys()
    assert all(torch.equal(theirs[name], spikes) for name, spikes in whole.items())


def test_flash_and_ram_are_what_the_tables_take(in_c):
    _, runner, runtime, _ = in_c
    flash, ram = runtime.memory()
    weights = sum(node.weight.numel() for node in runner.graph.nodes if node.kind in ("conv", "head"))
    membranes = 4 * sum(int(np.prod(node.shape)) for node in runner.graph.of_kind("fire"))
    assert weights < flash < 2 * weights + 60_000
    assert membranes < ram < 4 * membranes


# NIR


def test_nirs_own_reader_has_the_nodes(tmp_path):
    model = network("fsnn_7b", "XOR", neuron="LIF")
    written(tmp_path, "nir", graph.exact(model, (14, 14)))
    kinds = {type(node).__name__ for node in read_nir(tmp_path / "out" / "model.nir").nodes.values()}
    assert kinds == {"Input", "Conv2d", "LIF", "IF", "SumPool2d", "Flatten", "Affine", "Output"}


# What is refused


def test_damaged_files_are_one_line(tmp_path):
    runner = graph.exact(network("fsnn18", "OR"), (14, 14))
    for target, kind, name in (("onnx", OnnxRuntime, "model.onnx"), ("nir", None, "model.nir")):
        folder = tmp_path / target
        folder.mkdir()
        written(folder, target, runner)
        path = folder / "out" / name
        content = path.read_bytes()
        for damaged in (content[: len(content) // 2], b"", b"hello", content[: len(content) // 3] + bytes(9999)):
            path.write_bytes(damaged)
            with pytest.raises(UserError, match=r"is damaged or no (ONNX model|NIR file) .*: export it again"):
                kind(path, runner.graph) if kind else read_nir(path)


def test_attention_becomes_no_nir(tmp_path):
    name, connect_f, options = SPIKFORMER
    runner = graph.exact(network(name, connect_f, **options), (14, 14))
    with pytest.raises(ValueError, match="is attention, which NIR has no nodes for"):
        TARGETS["nir"].write(runner, tmp_path)


def test_sums_become_no_nir_and_no_integers(tmp_path):
    model = create_model("sew_resnet18", width=4, stem="cifar").eval()
    runner = graph.exact(model, (8, 8))
    with pytest.raises(ValueError, match=r"layer1\.0\.join adds"):
        TARGETS["nir"].write(runner, tmp_path)
    runtime = written(tmp_path, "onnx", runner)  # which adds
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(runtime.logits(x), runner(x))


def test_a_missing_package_is_one_line_that_names_the_extra():
    hidden = "import sys; sys.modules['onnx'] = sys.modules['nir'] = None\n"
    code = hidden + "from utils.export.{m} import {f}\nfrom utils.errors import run_command\nsys.exit(run_command({f}))"
    for module, function, extra in (("onnx_graph", "import_onnx", "export"), ("nir_graph", "import_nir", "nir")):
        done = subprocess.run(
            [sys.executable, "-c", code.format(m=module, f=function)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert done.stderr.strip().endswith(f"is not installed: pip install 'full-spike-aap[{extra}]'")


def test_code_that_does_not_compile_is_one_line(tmp_path):
    runner = graph.quantize(network("fsnn_7b", "OR"), [inputs(network("fsnn_7b", "OR"), 4)])
    written(tmp_path, "c", runner)
    (tmp_path / "out" / "classify.c").write_text("int classify(;\n")
    with pytest.raises(UserError, match=r"does not compile .*classify\.c: .*error"):
        CRuntime(tmp_path / "out", runner.graph, tmp_path / "build")


def test_every_network_between_whose_layers_only_spikes_go_can_be_described():
    for name in list_models():
        small = {"width": 32, "heads": 2, "depth": 1} if "spikformer" in name else {"width": 4}
        model = create_model(name, **small)
        if model.aap is None and not name.startswith(("resnet", "sew", "spiking", "spikformer")):
            graph.describe(model, (64, 64)).require_binary("anything")
