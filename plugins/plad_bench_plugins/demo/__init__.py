"""The embedded demo task: its generator and the teacher that ships with it."""
