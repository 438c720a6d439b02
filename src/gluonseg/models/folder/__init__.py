"""What a model folder holds, and reading it."""
