"""The embedded demo task: its words, its grammar, and the stage artifacts (a trained teacher) that ship with it."""
