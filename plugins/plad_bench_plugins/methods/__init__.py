"""Distillation methods, one file each, with the formula, its parameters and its citation."""
