"""What each operation computes, one module each with a `run(context)`; only workers import them."""
