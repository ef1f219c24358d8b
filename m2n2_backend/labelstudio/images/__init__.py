"""Where the pixels of a task come from, and where they may not come from."""
