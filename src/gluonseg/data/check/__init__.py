"""The label doctor: what is wrong with images and masks, where, and what to do."""
