"""``python -m m2n2_backend``: the command line."""

from m2n2_backend.cli import app

app()
