"""What is compared: each module here is a program of its own, run by :mod:`benchmarks.variant`."""
