"""How fast ours is beside spikingjelly's stock equivalent; run as `python -m benchmarks.train_step`."""
