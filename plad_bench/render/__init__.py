"""From a board to what a person reads: pages, plots, tables for papers, model cards. A function of the board alone."""
