"""Checks of `plad-bench doctor` that need to know nothing of its command line."""
