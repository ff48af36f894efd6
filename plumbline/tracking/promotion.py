"""Decide from measured win rates whether a policy becomes champion, with the reasons in words."""

from collections.abc import Mapping
from dataclasses import dataclass

from plumbline.errors import UserError

Measured = Mapping[str, object]


@dataclass(frozen=True)
class Decision:
    """The verdict."""

    promoted: bool
    reasons: list[str]


def decide(measured: Measured, champion: int | None, min_win_rate: float) -> Decision:
    """Promote a policy whose 95 % intervals of the win rate lie above `min_win_rate`.

    The rates are those against SFT, and against the champion if there is one.
    """
    against = ["sft"] if champion is None else ["sft", "champion"]
    verdicts = [_beats(measured, other, min_win_rate) for other in against]
    reasons = [reason for _, reason in verdicts]
    if champion is None:
        reasons.append("there was no champion to compare with")
    return Decision(all(passed for passed, _ in verdicts), reasons)


def was_overtaken(compared_with: int | None, champion_now: int | None, version: int) -> bool:
    """True if another version became champion after the comparison, so that it is not known which is better.
    """
    return champion_now not in (None, compared_with, version)


def postponed(decision: Decision, compared_with: int | None, champion_now: int | None) -> Decision:
    """Return the decision for a policy that was overtaken: it is compared with the newer champion by another
    run.
    """
    compared = f"version {compared_with}" if compared_with else "no champion"
    return Decision(False, [*decision.reasons, f"it was compared with {compared}, but version {champion_now} "
                                               "has become champion since: run again to compare it with that "
                                               "one"])


def kept_out(decision: Decision, version: int, why: str) -> Decision:
    """Return the decision for a version that a person has rolled back: only a person puts it into use again.
    """
    return Decision(False, [*decision.reasons, f"version {version} was rolled back ({why}): `plumbline "
                                               f"promote {version}` puts it into use again"])


def _beats(measured: Measured, other: str, min_win_rate: float) -> tuple[bool, str]:
    key = f"win_rate_vs_{other}"
    rate, low, high, n = (_number(measured, f"{key}{part}") for part in ("", "_low", "_high", "_n"))
    passed = low > min_win_rate
    relation = "above" if passed else "not above"
    name = "SFT" if other == "sft" else "the champion"
    return passed, (f"win rate against {name} {rate:.3f} [{low:.3f}, {high:.3f}], n = {n:.0f}: lower end "
                    f"{relation} {min_win_rate:g}")


def _number(measured: Measured, key: str) -> float:
    value = measured.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError(f"reports/preference/metrics.json has no number `{key}`, which promotion needs; "
                        f"found {value!r}. Run the stage again with --force preference_eval.")
    return float(value)
