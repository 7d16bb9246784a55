"""Students and aliases."""
