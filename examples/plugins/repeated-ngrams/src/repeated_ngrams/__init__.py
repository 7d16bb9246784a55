"""The metric repeated-ngrams for plad-bench."""
