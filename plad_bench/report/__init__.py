"""From records to pages: the schema of a cell's record, statistics, boards, markdown and plots. Needs no torch."""
