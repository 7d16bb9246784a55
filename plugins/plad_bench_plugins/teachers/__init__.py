"""Teacher sources and aliases."""
