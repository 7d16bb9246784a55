"""Tasks: data sets of prompts and references."""
