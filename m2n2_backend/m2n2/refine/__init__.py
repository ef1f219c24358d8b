"""Steps beyond the paper: each click changes only what it points at, and color settles the edge."""
