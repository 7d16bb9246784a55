"""Launchers: where stages run."""
