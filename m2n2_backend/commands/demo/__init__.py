"""``python -m m2n2_backend.commands.demo DIR``: a real server, clicks on three photographs, and what became of them."""
