"""Data sets: photographs with their true masks."""
