"""What follows the paper's rule: each click changes what it was about, and color settles the edge."""
