"""The losses of `full_spike.utils.losses`, for training loops of one's own."""

from full_spike.utils.losses import DistillationLoss, DualStreamLoss, TETLoss, early_exit

__all__ = ["DistillationLoss", "DualStreamLoss", "TETLoss", "early_exit"]
