"""What the harness and its plugins agree on: records, hooks, the registry, errors. Imports no other part."""
