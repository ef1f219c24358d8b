"""One model with its queue and caches, wherever it lives."""
