"""The paper, one step to a file (Eq. 1 to 11)."""
