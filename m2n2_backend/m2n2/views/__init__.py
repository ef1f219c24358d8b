"""Views: windows of a large photograph that are encoded for themselves, for objects that are small in it."""
