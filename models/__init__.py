"""Full-spike networks with the Auxiliary Accumulation Pathway (arXiv:2301.11929), and the baselines beside them."""

from . import net_7b, resnet, spikformer  # noqa: F401  (importing an architecture registers it)
from .accumulation import detach_aap
from .connect import BOOLEAN_FUNCTIONS, CONNECT_FUNCTIONS, Join, register_join
from .deploy import fold_batchnorm
from .neuron import NEURONS, SURROGATES, use_fused
from .pretrained import Pretrained, find_pretrained, list_pretrained, load_pretrained, read_pretrained, save_pretrained
from .published import from_published, load_published, to_published
from .recompute import save_memory
from .registry import create_model, list_models, model_options, register_model
from .trunk import returning

__all__ = [
    "BOOLEAN_FUNCTIONS",
    "CONNECT_FUNCTIONS",
    "NEURONS",
    "SURROGATES",
    "Join",
    "Pretrained",
    "create_model",
    "detach_aap",
    "find_pretrained",
    "fold_batchnorm",
    "from_published",
    "list_models",
    "list_pretrained",
    "load_pretrained",
    "load_published",
    "model_options",
    "read_pretrained",
    "register_join",
    "register_model",
    "returning",
    "save_memory",
    "save_pretrained",
    "to_published",
    "use_fused",
]
