"""The task spelled-dates for plad-bench."""
