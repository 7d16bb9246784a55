"""From valid records to a board: which count, statistics, ranks, comparisons, several boards as one. Needs no torch."""
