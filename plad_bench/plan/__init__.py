"""Planning of a run: selectors, specification, cells, stages and their keys."""
