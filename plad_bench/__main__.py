"""`python -m plad_bench` is `plad-bench`."""

from plad_bench.cli.main import main

main()
