"""Checks of `plad-bench doctor` that do not depend on the command line."""
