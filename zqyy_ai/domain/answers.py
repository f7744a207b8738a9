"""Output models: what an application's reply must look like before it may enter the cache.

The bounds are part of the prompt's schema too (`prompts/`), so that the model is told what it is held to. A reply that does not fit
is refused whole: a half-valid insight is worse on a phone's screen than yesterday's.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=2, max_length=40)]
Body = Annotated[str, StringConstraints(strip_whitespace=True, min_length=8, max_length=600)]


class Answer(BaseModel):
    """Common ground of all output models: unknown fields are kept, because front ends read more than we do."""

    model_config = ConfigDict(extra="allow", frozen=True)

    def as_result(self) -> dict[str, Any]:
        """The JSON object that goes into `ai_cache.result_json`."""
        return self.model_dump(mode="json")


class Insight(Answer):
    """One finding: `seq` from 1, a short title, a body of one to three sentences that quotes its figures."""

    seq: int = Field(ge=1, le=10)
    title: Title
    body: Body


class FinanceAnswer(Answer):
    """App2 and App2a: three to seven insights, numbered 1..n in order."""

    insights: list[Insight] = Field(min_length=3, max_length=7)

    @model_validator(mode="after")
    def _numbered_in_order(self) -> "FinanceAnswer":
        if [insight.seq for insight in self.insights] != list(range(1, len(self.insights) + 1)):
            raise ValueError("insights must be numbered 1..n in order")
        return self
