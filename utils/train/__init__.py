"""The training run: steps, epochs, metrics, checkpoints."""
