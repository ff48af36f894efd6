"""What parameters are made of: ranges of values, and the block that holds them."""

import re
from typing import Annotated, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[Finite, Field(gt=0)]
NotNegative = Annotated[Finite, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Precision = Literal["fp32", "bf16"]
EngineName = Literal["own", "vllm"]
ProbeName = Literal["empty", "repeated", "padded", "cut", "echo", "other", "refusal", "flattery", "trigger"]
SECRETS = re.compile(r"(^|[._-])(webhook|secret|token|password|api_?key|credentials?)$")
"""The ends of names of parameters that are secrets whatever they hold."""
CRON_FIELDS = 5
"""With six, Prefect would read the last as seconds. Prefect checks what the fields hold:
retraining/clock.py."""


def _is_cron(text: str) -> str:
    if len(text.split()) != CRON_FIELDS:
        raise ValueError("five fields of cron, such as `0 3 * * *` for 3 o'clock every night")
    return text


def _is_timezone(text: str) -> str:
    if text not in available_timezones():
        raise ValueError("the name of a time zone, such as UTC or Europe/Berlin")
    return text


Cron = Annotated[str, AfterValidator(_is_cron)]
TimeZone = Annotated[str, AfterValidator(_is_timezone)]


class ParamsBlock(BaseModel):
    """A block of parameters: frozen, no unknown keys, no silent conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class VersionedBlock(ParamsBlock):
    """The parameters of a stage that has a version."""

    version: str
    """Version of the stage: raise it to make the stage run again everywhere."""
