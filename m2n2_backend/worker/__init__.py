"""The model behind a small interface the web process talks to."""
