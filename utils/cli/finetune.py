"""A trained network trained on with rounded weights, its pathway attached."""

from __future__ import annotations

from typing import Any

from full_spike.utils.data.dataset import Datasets
from full_spike.utils.data.loading import make_loaders
from full_spike.utils.distributed import World
from full_spike.utils.train.optim import OptimOptions, make_optimizer, make_schedule
from full_spike.utils.train.step import Trainer


def finetune(
    model: Any, data: Datasets, factory: Any, *, bits: int, epochs: int, lr: float, batch_size: int, seed: int
) -> Any:
    """The model itself, trained for so many epochs by SGD at a learning rate that falls to 0; it keeps rounded weights.

    Args:
        factory: whose `graph` rounds (`round_weights`) and keeps (`keep_rounded`).
    """
    world = World()
    model = factory.graph.round_weights(model, bits)
    recipe = OptimOptions(epochs=epochs, lr=lr, momentum=0.9, weight_decay=0.0)
    optimizer = make_optimizer(model, recipe)
    trainer = Trainer(model, optimizer, make_schedule(optimizer, recipe), world)
    loaders = make_loaders(
        data.train, data.test, batch_size=batch_size, workers=0, world=world, seed=seed, collate=data.collate
    )
    for epoch in range(epochs):
        model.train()
        loaders.sampler.start_at(epoch, 0)
        total, seen = 0.0, 0
        for images, target in loaders.train:
            _, loss = trainer.step(images, target)
            total, seen = total + float(loss) * len(target), seen + len(target)
        trainer.schedule.step()
        print(f"fine-tuning with {bits}-bit weights, epoch {epoch + 1}/{epochs}: loss {total / seen:.4f}", flush=True)
    return factory.graph.keep_rounded(model).eval()
