"""gluonseg's networks beside PyTorch's with the same values: ``make parity``."""
