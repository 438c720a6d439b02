"""Networks, what travels beside their weights, and where weights come from."""
