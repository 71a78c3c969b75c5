"""Recordings of event cameras: reading, converting to frames, augmenting, making."""
