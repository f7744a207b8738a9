"""Text as PostgreSQL can store it. What others wrote (a model's words, an error's message) may hold what no text column takes.

Whatever writes such a text goes through here: a message that the database refuses would take back what it tells of.
"""


def storable(text: str) -> str:
    """Without NUL; half of a surrogate pair becomes `?`. Anything else stays as it is."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def storable_or_none(text: str | None) -> str | None:
    return None if text is None else storable(text)
