"""The device that a backbone runs on: its memory, its errors, its cores."""
