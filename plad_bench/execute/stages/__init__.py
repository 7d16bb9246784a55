"""The computation of each operation, one module each with a `run(context)`. Only workers import them."""
