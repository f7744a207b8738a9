"""Pure nouns: no I/O, no clock of its own, no library but pydantic."""
