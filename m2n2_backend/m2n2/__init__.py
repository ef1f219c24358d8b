"""The method of the paper as pure tensor code: no files, no network, no settings."""
