"""Public data sets, and a drawn one, as channels."""
