"""The steps as the authors' released code takes them."""
