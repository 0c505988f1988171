"""The settings of answers' equality."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from server.section import Section


class Answers(Section):
    """When two answers count as the same."""

    maths: Literal["auto", "never"] = Field(
        default="auto",
        description="Whether marked mathematical answers that are spelled differently are compared by algebra, in a "
        "process of its own. `auto`: if the extra `maths` is installed. `never`: only by their canonical spelling.",
    )
    maths_timeout_ms: int = Field(
        default=200,
        ge=10,
        le=1000,
        description="Time for comparing one new answer with those before it. The process is ended when it takes "
        "longer, and the answers count as different.",
    )
