"""From what the user asked to a graph of stages: selectors, run specification, cells, stages and their keys."""
