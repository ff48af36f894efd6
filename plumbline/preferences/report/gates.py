"""Limits on data: what a report must show before anything is trained on it.

A limit on a share is held against the nearer end of its 95 % interval, so that the noise of little data does
not trip it: data are refused when they are worse than the limit beyond doubt. Shares of what is counted and
not drawn, such as rows in quarantine, are held against it as they are. A limit on what could not be measured
is not tripped; `not_measured` names it.
"""

from dataclasses import asdict, dataclass

from plumbline.preferences.report.intervals import Estimate
from plumbline.preferences.report.schema import DataReport
from plumbline.preferences.report.sections import alpha_text, percent
from plumbline.preferences.report.text_damage import Texts


@dataclass(frozen=True)
class DataLimits:
    """Limits on a data report, each a parameter `ingest.<name>`; None is not checked."""

    max_quarantined: float | None = None
    """Share of the rows read that may be in quarantine."""
    max_contradictions: float | None = None
    """Share of the pairs judged again that may have both labels."""
    max_cycles: float | None = None
    """Share of prompts, of those with three or more decided pairs, whose preferences may go in a circle."""
    min_agreement: float | None = None
    """Krippendorff's alpha: 1 is perfect, 0 is chance."""
    max_near_chance_annotators: float | None = None
    """Share of the annotators measured whose agreement with others may be like a coin's."""
    max_longer_wins: float | None = None
    """Share of decided pairs in which the longer response may win; one half is fair."""
    max_first_shown_wins: float | None = None
    """Share of decided pairs in which the response shown first may win; as far below one half counts as
    well."""
    max_machine: float | None = None
    """Share of judged rows whose label may come from a machine."""
    max_damaged_texts: float | None = None
    """Share of the texts of any source that may have replacement characters, misread UTF-8 or control
    characters."""
    max_templated_texts: float | None = None
    """Share of the texts of any source that may carry the markers of a chat template."""
    min_heldout_preferences: float | None = None
    """Held-out comparisons and rankings, which the reward model is examined on."""


RANGES = {"min_agreement": (-1.0, 1.0), "min_heldout_preferences": (0.0, float("inf"))}
"""Least and largest value of the limits that are no shares."""


@dataclass(frozen=True)
class LimitFinding:
    """What one limit was held against."""

    limit: str
    tripped: bool
    reason: str


def check_gates(report: DataReport, limits: DataLimits) -> list[str]:
    """Return the reasons against training on the data; none if there are none.

    A reason says what was expected, what was found, and what to do. Raises ValueError for a limit out of
    range: alpha is from -1 to 1, a share from 0 to 1, a number of rows any.
    """
    _check(limits)
    return [finding.reason for finding in _findings(report, limits) if finding.tripped]


def not_measured(report: DataReport, limits: DataLimits) -> list[str]:
    """Return the names of limits that are set but not checked, because the data do not have what they limit.
    """
    found = {finding.limit for finding in _findings(report, limits)}
    return [name for name in _given(limits) if name not in found]


def _given(limits: DataLimits) -> dict[str, float]:
    return {name: value for name, value in asdict(limits).items() if value is not None}


def _check(limits: DataLimits) -> None:
    for name, value in _given(limits).items():
        low, high = RANGES.get(name, (0.0, 1.0))
        if not low <= value <= high:
            raise ValueError(f"ingest.{name} is {value:g}: expected a number from {low:g} to {high:g}")


def _findings(report: DataReport, limits: DataLimits) -> list[LimitFinding]:
    """Return the findings on every limit that is set and can be checked."""
    return [*_rows(report, limits), *_texts(report, limits), *_agreement(report, limits),
            *_biases(report, limits)]


def _rows(report: DataReport, limits: DataLimits) -> list[LimitFinding]:
    counts, found = report["counts"], list[LimitFinding]()
    if limits.max_quarantined is not None and counts["rows_read"]:
        found.append(_at_most("max_quarantined", limits.max_quarantined, counts["quarantined"],
                              counts["rows_read"],
                              "rows read are in quarantine", "See quarantine.jsonl for file, line and "
                              "reason, and mend the source or name its format"))
    if limits.max_machine is not None and "labellers" in report and "share" in report["labellers"]:
        labels = report["labellers"]
        found.append(_at_most("max_machine", limits.max_machine, labels["machine"],
                              labels["human"] + labels["machine"] + labels["unknown"],
                              "judged rows have a machine's label",
                              "Add judgements by people, or leave out a labeller"))
    if limits.min_heldout_preferences is not None and "preferences" in report["splits"]:
        heldout = report["splits"]["preferences"]["heldout"]
        found.append(LimitFinding("min_heldout_preferences", heldout < limits.min_heldout_preferences,
                             f"{heldout:,} preferences are held out, and ingest.min_heldout_preferences asks "
                             f"for {limits.min_heldout_preferences:,g}. Add preferences, or raise "
                             "ingest.heldout_fraction."))
    return found


def _texts(report: DataReport, limits: DataLimits) -> list[LimitFinding]:
    """Return the source with the largest share of damaged texts, and the one with most texts with template
    markers.
    """
    found, texts = list[LimitFinding](), report["texts"]
    if limits.max_damaged_texts is not None and texts:
        name = max(texts, key=lambda name: texts[name]["damaged"] / texts[name]["texts"])
        found.append(_at_most("max_damaged_texts", limits.max_damaged_texts, texts[name]["damaged"],
                              texts[name]["texts"], f"texts of {name} have traces of a wrong encoding",
                              "Convert that file to UTF-8 from the encoding that it is really in, and add it "
                              "again"))
    if limits.max_templated_texts is not None and texts:
        name = max(texts, key=lambda name: _templated(texts[name]) / texts[name]["texts"])
        found.append(_at_most("max_templated_texts", limits.max_templated_texts, _templated(texts[name]),
                              texts[name]["texts"], f"texts of {name} carry the markers of a chat template",
                              "The model's own template is put around them, and they would be learnt as "
                              "plain text: give messages, or texts without the markers"))
    return found


def _templated(texts: Texts) -> int:
    trouble = texts["trouble"].get("chat template")
    return round(trouble["share"] * trouble["n"]) if trouble else 0


def _agreement(report: DataReport, limits: DataLimits) -> list[LimitFinding]:
    agreement, found = report["agreement"], list[LimitFinding]()
    if limits.max_contradictions is not None and "contradicted" in agreement:
        found.append(_share("max_contradictions", limits.max_contradictions, agreement["contradicted"],
                            "pairs judged again have both labels", "Look at the annotators who agree least "
                            "in the data report, and remove those who guess"))
    if limits.max_cycles is not None and "cycles" in agreement:
        circles = agreement["cycles"]
        found.append(_at_most("max_cycles", limits.max_cycles, circles["with_cycle"], circles["prompts"],
                              "prompts with three or more decided pairs have preferences that go in a circle",
                              "Ask for rankings instead of pairs, or remove annotators who guess"))
    if limits.min_agreement is not None and "alpha" in agreement:
        alpha = agreement["alpha"]
        found.append(LimitFinding("min_agreement", alpha.get("high", alpha["value"]) < limits.min_agreement,
                             f"Krippendorff's alpha is {alpha_text(alpha)} from {alpha['n']:,} judgements, "
                             f"and ingest.min_agreement asks for {limits.min_agreement:g}. Make the "
                             "instructions to annotators clearer, or remove those who agree with nobody."))
    if limits.max_near_chance_annotators is not None and "near_chance" in agreement:
        near = agreement["near_chance"]
        names = ", ".join(near["annotators"][:5]) + (" and others" if len(near["annotators"]) > 5 else "")
        found.append(_at_most("max_near_chance_annotators", limits.max_near_chance_annotators,
                              len(near["annotators"]),
                              near["measured"],
                              f"annotators measured agree with others like a coin ({names})",
                              "Remove their judgements with plumbline data remove --annotator NAME"))
    return found


def _biases(report: DataReport, limits: DataLimits) -> list[LimitFinding]:
    found = []
    for name, limit, key, wins, remedy in (
            ("max_longer_wins", limits.max_longer_wins, "longer_wins", "the longer response wins",
             "Add pairs in which the shorter one is better, or responses of more equal length"),
            ("max_first_shown_wins", limits.max_first_shown_wins, "first_shown_wins", "the response shown "
                                                                                      "first wins",
             "Show responses in random order and record it; judging each pair in both orders cancels the "
             "bias")):
        if limit is None or key not in report["bias"]:
            continue
        share = report["bias"][key]["overall"]
        if key == "first_shown_wins" and share["share"] < 0.5:
            share = {"share": 1 - share["share"], "low": 1 - share["high"], "high": 1 - share["low"],
                     "n": share["n"]}
            wins = "the response shown second wins"
        found.append(_share(name, limit, share, f"decided pairs: {wins}", remedy))
    return found


def _at_most(name: str, limit: float, part: int, whole: int, of: str, remedy: str) -> LimitFinding:
    reason = (f"{part:,} of {whole:,} {of} ({100 * part / whole:.1f} %), and ingest.{name} allows "
              f"{100 * limit:g} %. {remedy}.")
    return LimitFinding(name, part / whole > limit, reason)


def _share(name: str, limit: float, share: Estimate, of: str, remedy: str) -> LimitFinding:
    reason = (f"{percent(share)} of {share['n']:,} {of}, and ingest.{name} allows {100 * limit:g} %. "
              f"{remedy}.")
    return LimitFinding(name, share["low"] > limit, reason)
