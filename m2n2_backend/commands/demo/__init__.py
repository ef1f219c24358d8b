"""``python -m m2n2_backend.commands.demo DIR``: a real server, clicks on three photographs, pictures of the masks."""
