"""Doing what a plan says: the engine, the workers, the store of artifacts, and where results came from."""
