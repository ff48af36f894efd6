"""What report.json holds; what could not be measured has no key."""

from typing import NotRequired, TypedDict

from plumbline.preferences.report.agreement import MeasuredAgreement
from plumbline.preferences.report.biases import Bias
from plumbline.preferences.report.census import Labellers, Leakage, Lengths, Ratings
from plumbline.preferences.report.cycles import Cycles
from plumbline.preferences.report.intervals import Estimate
from plumbline.preferences.report.text_damage import DamageExample, Texts


class Judged(TypedDict):
    """What the labels say. `pairs` are all pairs judged, those within rankings and those made of ratings
    included."""

    pairs: int
    ties: NotRequired[Estimate]
    longer_wins: NotRequired[Estimate]
    first_shown_wins: NotRequired[Estimate]


class Agreement(MeasuredAgreement):
    """How far those who judged the same two responses agree, with each other and with themselves."""

    pairs_judged_again: int
    contradictions: int
    by_one_annotator: int
    between_annotators: int
    contradicted: NotRequired[Estimate]
    cycles: NotRequired[Cycles]


class Strata(TypedDict):
    """Rows by split within each kind and each source, and by kind within each source."""

    kind_by_split: dict[str, dict[str, int]]
    source_by_split: dict[str, dict[str, int]]
    source_by_kind: dict[str, dict[str, int]]


class DataReport(TypedDict):
    """Everything in report.json."""

    snapshot: str
    counts: dict[str, int]
    splits: dict[str, dict[str, int]]
    names: dict[str, int]
    by_kind: dict[str, int]
    by_source: dict[str, int]
    by_annotator: dict[str, int]
    strata: Strata
    leakage: Leakage
    characters: dict[str, Lengths]
    judgements: Judged
    bias: dict[str, Bias]
    agreement: Agreement
    labellers: NotRequired[Labellers]
    ratings: NotRequired[Ratings]
    texts: dict[str, Texts]
    trouble_examples: dict[str, DamageExample]
    quarantine: dict[str, int]
    unread: NotRequired[dict[str, int]]
    left_alone: NotRequired[dict[str, int]]
    examples: list[dict[str, object]]
