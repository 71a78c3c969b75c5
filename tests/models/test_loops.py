"""Training loops of others around our networks: PyTorch's, DDP, torch.export, Lightning, Hugging Face's Trainer."""

import re

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

from full_spike import detach_aap
from full_spike.losses import DualStreamLoss
from support.command import ROOT
from support.networks import images, small

PAGE = (ROOT / "docs" / "LIBRARY.md").read_text()


def test_fine_tuning_as_the_page_shows_it():
    (code,) = re.findall(r"(?s)```python\n(.*?)```", PAGE)
    names = {}
    exec(code, names)
    assert names["model"].config["num_classes"] == 5
    assert names["model"].aap is not None


@pytest.fixture
def group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def steps(model, loss, **options):
    """Two steps of DDP."""
    network = DistributedDataParallel(model, **options)
    for _ in range(2):
        loss(network(images(model)), torch.tensor([0, 1])).backward()


def test_ddp_with_the_trunks_loss_alone(group):
    def alone(outputs, target):
        return DualStreamLoss()(outputs[0], target)

    with pytest.raises(RuntimeError, match="find_unused_parameters"):
        steps(small("dsnn18"), alone)
    steps(small("dsnn18"), alone, find_unused_parameters=True)
    steps(small("dsnn18"), DualStreamLoss(aap_weight=0.0))
    steps(detach_aap(small("dsnn18")), DualStreamLoss())


@pytest.mark.parametrize("name", ["dsnn18", "fs_spikformer_4_384"])
def test_export(name):
    model = small(name).eval()
    model.readout = "sum" if name == "dsnn18" else "fsnn"
    x = images(model)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))


def data():
    return TensorDataset(torch.randn(8, 3, 16, 16), torch.arange(8) % 5)


def test_lightning(tmp_path):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.criterion = small("dsnn18"), DualStreamLoss()

        def training_step(self, batch, _index):
            return self.criterion(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    module = Module()
    before = module.model.fc.weight.detach().clone()
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_progress_bar=False
    )
    trainer.fit(module, torch.utils.data.DataLoader(data(), 4))
    assert not torch.equal(module.model.fc.weight, before)


def test_hugging_faces_trainer(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class ForTrainer(torch.nn.Module):  # which takes a network's `config` for one of its own
        def __init__(self, network):
            super().__init__()
            self.network, self.criterion = network, DualStreamLoss()

        def forward(self, x, labels):
            outputs = self.network(x)
            return {"loss": self.criterion(outputs, labels), "logits": outputs}

    model = small("dsnn18")
    before = model.fc.weight.detach().clone()
    arguments = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=1, per_device_train_batch_size=4, learning_rate=0.1, report_to=[], use_cpu=True,
        remove_unused_columns=False, save_strategy="no",
    )  # fmt: skip
    samples = [{"x": x, "labels": y} for x, y in data()]
    transformers.Trainer(ForTrainer(model), arguments, train_dataset=samples).train()
    assert not torch.equal(model.fc.weight, before)
