"""What each number of a text is about: its metric, area, days, period, and whether it tells a value, a change, a share or a ratio.

Reads sentence by sentence (`sentence.py`), from left to right, and keeps what a later sentence may leave out.
"""

from zqyy_ai.domain.number_check.contexts import ReadNumber
from zqyy_ai.domain.number_check.notation import Kind, Token, tokens_of
from zqyy_ai.domain.number_check.parts import sentences_of
from zqyy_ai.domain.number_check.quantities import Quantities
from zqyy_ai.domain.number_check.sentence import Memory, SentenceReader


def read(text: str, known: Quantities, heard: list[str]) -> list[ReadNumber]:
    """`heard`: metrics named before this text (in its title), the last one first; those of the text are added."""
    memory = Memory(heard)
    numbers: list[ReadNumber] = []
    for sentence in sentences_of(tokens_of(text, (known.site,))):
        if any(token.kind in (Kind.NUMBER, Kind.DATE) for token in sentence):
            numbers += SentenceReader(text, sentence, known, memory).numbers()
        else:
            _hear_only(sentence, memory)
        memory.days = None
    return numbers


def _hear_only(sentence: list[Token], memory: Memory) -> None:
    """A sentence without numbers: the next one may still be about what it names."""
    for token in sentence:
        if token.kind is Kind.METRIC:
            memory.hear_metric(token.payload)
        elif token.kind is Kind.AREA:
            memory.area = token.payload
