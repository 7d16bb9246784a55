"""Distillation methods: a file each, holding the formula, its parameters and its citation."""
