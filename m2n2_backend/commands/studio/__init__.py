"""Label Studio and the backend side by side on this machine, for trying out and for the tests in a browser."""
