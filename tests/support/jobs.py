"""The run that tests of whole jobs kill, and how far it has come."""

from full_spike.utils import checkpoint
from support.command import TINY

DIGITS = ("cifar.train", *TINY, "--epochs", "4", "--cos_lr_T", "4", "--checkpoint-every", "1", "--resume", "auto")


def latest(out):
    """The newest checkpoint below an output folder; None before there is one."""
    return next(iter(out.glob(f"*/{checkpoint.LATEST}")), None)
