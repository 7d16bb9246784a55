"""The interface between the harness and plugins: records, hooks, registry, errors. Imports no other part."""
