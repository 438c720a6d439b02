"""The training loop and everything it is wired from."""
