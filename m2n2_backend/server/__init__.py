"""The HTTP server Label Studio talks to."""
