"""The work that annotators accepted: masks and images as files, and figures of the work."""
