"""From valid records to a board: statistics, ranks, comparisons, and several boards as one. Needs no torch."""
