"""Metrics; any of them can serve as a scorer."""
