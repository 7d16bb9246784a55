"""The embedded demo task: its words, its grammar, and a trained teacher as a shipped artifact."""
