"""Several algorithms, backbones and seeds trained on the same data, and what came of it."""
