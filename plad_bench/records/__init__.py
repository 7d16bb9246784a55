"""The record of a cell: its schema, its files, and the checks of a board's records. Needs no torch."""
