"""What OpenAI's word for how hard to think means here."""

from __future__ import annotations

from pydantic import Field

from server.section import Section

_EFFORT = "A profile, `auto` for the default one, or a strategy."


class ReasoningEffort(Section):
    """What a request's `reasoning_effort` means when it names no profile and no strategy."""

    none: str = Field(default="single", description=_EFFORT)
    minimal: str = Field(default="fast", description=_EFFORT)
    low: str = Field(default="fast", description=_EFFORT)
    medium: str = Field(default="balanced", description=_EFFORT)
    high: str = Field(default="quality", description=_EFFORT)
    xhigh: str = Field(default="quality", description=_EFFORT)
    max: str = Field(default="quality", description=_EFFORT)

    def meaning(self, effort: str | None) -> str | None:
        """The profile or strategy for an effort; None for one that is the engine's own."""
        return getattr(self, effort) if effort in type(self).model_fields else None
