"""Tasks: where prompts and references come from."""
