"""Running comparisons: from options to a board. The command line and `plad_bench.run` both call this package."""
