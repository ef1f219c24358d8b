"""Worker processes of this machine, supervised."""
