"""Label Studio's side of the house: its requests, its files and its regions."""
