"""Reading, checking, preparing and batching images and masks."""
