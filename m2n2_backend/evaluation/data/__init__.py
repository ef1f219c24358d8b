"""Data sets for evaluation: photographs with their true masks."""
