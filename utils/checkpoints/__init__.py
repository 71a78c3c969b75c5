"""What is kept of a run: checkpoints, written and read safely, their weights, and how they go on."""
