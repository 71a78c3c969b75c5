"""Pictures: event frames, spikes, learning curves."""
