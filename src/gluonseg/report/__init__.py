"""Pictures of results: overlays and curves."""
