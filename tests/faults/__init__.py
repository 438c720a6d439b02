"""The catalogue of faults and bad input: each test says by its mark which family it covers, and what happens."""
