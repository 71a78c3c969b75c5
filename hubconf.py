"""torch.hub: every registered network by its name.

    torch.hub.load("/path/to/this/folder", "fsnn18", source="local", pretrained="cifar10")

`pretrained` is the name of weights that come along, a folder of `save_pretrained`, a .safetensors file or a checkpoint;
what it says of the network's options need not be said again.
"""

import functools

from full_spike.models import create_model, list_models

dependencies = ["torch", "spikingjelly"]


def _entry(name):
    entry = functools.partial(create_model, name)
    entry.__doc__ = f"{name}(pretrained=None, **options): see models.model_options({name!r})."
    return entry


globals().update({name: _entry(name) for name in list_models()})
