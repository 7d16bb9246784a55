"""The record of a cell: its schema, how it lies on disk, and which of a board's records are valid. Needs no torch."""
