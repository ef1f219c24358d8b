"""Where weights come from, and whether their files are intact."""
