"""Features that outlive a process: files in a folder, or behind any fsspec address."""
