"""Decide by rules whether a policy becomes champion: what each one requires, what was measured, its verdict.

The figures are those of reports/preference/metrics.json. A rule that was asked for and whose figure is
missing blocks like one that failed: a policy is not put into use for want of evidence against it. Only a rule
that the parameters leave out (null), and kinds of prompts where the data has none, block nothing.

The lower end of a 95 % interval gives a one-sided error of 2.5 %: of policies that are no better than the
champion, at most that share is promoted at each challenge.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from plumbline.config import PromoteParams

Measured = Mapping[str, object]
"""The figures of an evaluation by name, as metrics.json has them."""
EQUAL = 0.5
"""The win rate of two policies of which neither is better."""
OPTIMISED, SECOND = "reward", "second"
"""The judge that PPO has optimised, and the second reward model, as `preference_eval.judges` names them."""
JUDGE_OPTIMISED = "judge_optimised"
"""The figure that is 1 where another judge decided that PPO has optimised, too; otherwise there is none."""
NOT_MEASURED = "not measured"
SFT, CHAMPION, BY_KIND = "win_rate_vs_sft", "win_rate_vs_champion", "win_rate_vs_sft_kind_"
ENDS = ("_low", "_high", "_n")


@dataclass(frozen=True)
class Rule:
    """One requirement beside what was measured."""

    name: str
    required: str
    measured: str
    passed: bool | None
    """None if the figure is missing."""
    optional: bool = False
    """True if a missing figure does not keep a policy out of use."""
    decisive: bool = False
    """True for the win rates, which are given as reasons also where they passed."""

    @property
    def allows(self) -> bool:
        """True if the rule does not stand in the way of the policy."""
        return self.optional if self.passed is None else self.passed

    @property
    def verdict(self) -> str:
        """Return `passed`, `failed` or `not measured`."""
        if self.passed is None:
            return NOT_MEASURED
        return "passed" if self.passed else "failed"

    @property
    def sentence(self) -> str:
        """Return requirement and measurement as one reason."""
        given = f"{self.name} {self.measured}"
        return f"{given}: {self.required}" if self.passed else f"{given}; required is {self.required}"

    def plain(self) -> dict[str, str]:
        """Return the rule as decision.json has it."""
        return {"rule": self.name, "required": self.required, "measured": self.measured,
                "verdict": self.verdict}


@dataclass(frozen=True)
class Decision:
    """The verdict of all rules."""

    promoted: bool
    reasons: list[str]
    rules: tuple[Rule, ...] = ()
    awaiting: bool = False
    """True if every rule passed and a person has to approve the policy."""


@dataclass(frozen=True)
class Circumstances:
    """The facts that the rules need beside the figures of the evaluation."""

    champion: int | None
    """The version that the policy was compared with, if there was a champion."""
    examined: Measured
    """The verdict on the reward model, as gate.json has it: `passed` and `reasons`."""
    second: Measured
    """The figures of the second reward model, as its metrics.json has them."""
    lost_rows: int = 0
    """Rows of the champion's snapshot that the policy did not learn from because they were removed."""


def decide(measured: Measured, circumstances: Circumstances, params: PromoteParams) -> Decision:
    """Promote a policy that every rule allows; with `params.approval` it awaits a person instead."""
    rules = tuple(rules_of(measured, circumstances, params))
    reasons = [rule.sentence for rule in rules if rule.decisive or not rule.allows]
    if circumstances.champion is None:
        reasons.append("there was no champion to compare with")
    promoted = all(rule.allows for rule in rules)
    if promoted and params.approval:
        return Decision(False, [*reasons, "every rule passed, and promote.approval asks for a person's word"],
                        rules, awaiting=True)
    return Decision(promoted, reasons, rules)


def rules_of(measured: Measured, circumstances: Circumstances, params: PromoteParams) -> Iterable[Rule]:
    """Yield the rules that the parameters ask for, each with its verdict."""
    yield beats(measured, SFT, "win rate against SFT", params.min_win_rate)
    if params.min_win_rate_greedy is not None:
        name = "win rate against SFT, both greedy"
        yield beats(measured, f"{SFT}_greedy", name, params.min_win_rate_greedy)
    if circumstances.champion is not None:
        yield _against_champion(measured, circumstances, params)
    if params.max_kind_loss is not None:
        yield no_kind_worse(measured, params.max_kind_loss)
    if params.max_length_growth is not None:
        yield grows_at_most(measured, params.max_length_growth)
    if params.max_kl is not None:
        yield stays_near(measured, params.max_kl)
    yield judged_independently(measured)
    if measured.get("judge") == SECOND:
        yield second_can_judge(circumstances.second)
    yield examination_passed(circumstances.examined)


def beats(measured: Measured, key: str, name: str, above: float) -> Rule:
    """Require that the lower end of the 95 % interval of a win rate lies above `above`."""
    rate, (low, high, n) = _number(measured, key), (_number(measured, key + part) for part in ENDS)
    required = f"lower end above {above:g}"
    if rate is None or low is None or high is None:
        return Rule(name, required, NOT_MEASURED, None, decisive=True)
    count = "" if n is None else f", n = {n:.0f}"
    return Rule(name, required, f"{rate:.3f} [{low:.3f}, {high:.3f}]{count}", low > above, decisive=True)


def _against_champion(measured: Measured, circumstances: Circumstances, params: PromoteParams) -> Rule:
    """Require a better policy; one that is not worse by more than a margin where rows were removed.

    Removed rows have to leave the model in use, although a policy trained on fewer is rarely better.
    """
    margin = params.non_inferior_by
    if margin is None or not circumstances.lost_rows:
        return beats(measured, CHAMPION, "win rate against the champion", params.min_win_rate)
    name = f"win rate against the champion, {circumstances.lost_rows:,} of whose rows were removed:"
    return beats(measured, CHAMPION, name, EQUAL - margin)


def no_kind_worse(measured: Measured, margin: float) -> Rule:
    """Require that no kind of prompts is surely lost: none whose whole interval lies below 0.5 - `margin`."""
    least = EQUAL - margin
    name, required = "win rate of each kind of prompts", f"no interval wholly below {least:g}"
    kinds: dict[str, tuple[float, float, float]] = {}
    for key in measured:
        rate, low, high = (_number(measured, key + part) for part in ("", "_low", "_high"))
        if key.startswith(BY_KIND) and rate is not None and low is not None and high is not None:
            kinds[key.removeprefix(BY_KIND)] = (rate, low, high)
    if not kinds:
        return Rule(name, required, NOT_MEASURED, None, optional=True)
    worse = [kind for kind, (_, _, high) in kinds.items() if high < least]
    shown = worse or [min(kinds, key=lambda kind: kinds[kind])]
    told = ", ".join("{} {:.3f} [{:.3f}, {:.3f}]".format(kind, *kinds[kind]) for kind in shown)
    return Rule(name, required, told if worse else f"lowest {told}", not worse)


def grows_at_most(measured: Measured, most: float) -> Rule:
    """Require that the policy's answers are at most `most` times as long as SFT's, in characters."""
    policy, sft = _number(measured, "characters_policy"), _number(measured, "characters_sft")
    name, required = "length of the answers", f"at most {most:g} times SFT's"
    if policy is None or sft is None:
        return Rule(name, required, NOT_MEASURED, None)
    times = f"{policy / sft:.2f} times" if sft else "longer"
    return Rule(name, required, f"{times} ({policy:.0f} characters, SFT's {sft:.0f})", policy <= most * sft)


def stays_near(measured: Measured, most: float) -> Rule:
    """Require a KL divergence from SFT of at most `most` nats a response."""
    kl = _number(measured, "kl_policy")
    name, required = "KL to SFT", f"at most {most:g} nats a response"
    if kl is None:
        return Rule(name, required, NOT_MEASURED, None)
    return Rule(name, required, f"{kl:.2f} nats", kl <= most)


def judged_independently(measured: Measured) -> Rule:
    """Require a judge that PPO was not rewarded by: the reward model, or a rule that is optimised, can veto
    and never promote.

    Two trainings that differ in the seed each win by their own reward model, whichever is better.
    """
    judge = measured.get("judge")
    name, required = "judge", "none that PPO optimised"
    if not isinstance(judge, str):
        return Rule(name, required, NOT_MEASURED, None)
    optimised = was_optimised(judge, measured)
    told = "the reward model" if judge == OPTIMISED else judge
    return Rule(name, required, f"{told}, which PPO optimised" if optimised else told, not optimised)


def second_can_judge(second: Measured) -> Rule:
    """Require a second reward model that is surely better than chance at held-out comparisons, where it
    decides: what a coin prefers says nothing, and what a few preferences taught may be length alone.
    """
    rule = beats(second, "heldout_accuracy", "second reward model, right on held-out comparisons:", EQUAL)
    return replace(rule, decisive=False)


def was_optimised(judge: str | None, measured: Measured) -> bool:
    """Return whether the judge of an evaluation, whose figures are `measured`, is what PPO optimised."""
    return judge == OPTIMISED or bool(measured.get(JUDGE_OPTIMISED))


def examination_passed(examined: Measured) -> Rule:
    """Require that the reward model passed its examination, probes included."""
    passed = examined.get("passed")
    name, required = "examination of the reward model", "passed"
    if not isinstance(passed, bool):
        return Rule(name, required, NOT_MEASURED, None)
    reasons = examined.get("reasons")
    listed = "; ".join(map(str, reasons)) if isinstance(reasons, list) else ""
    return Rule(name, required, "passed" if passed else f"failed ({listed})", passed)


def was_overtaken(compared_with: int | None, champion_now: int | None, version: int) -> bool:
    """True if another version became champion after the comparison, so that it is not known which is better.
    """
    return champion_now not in (None, compared_with, version)


def postponed(decision: Decision, compared_with: int | None, champion_now: int | None) -> Decision:
    """Return the decision for a policy that was overtaken: it is compared with the newer champion by another
    run.
    """
    compared = f"version {compared_with}" if compared_with else "no champion"
    return _refused(decision, f"it was compared with {compared}, but version {champion_now} has become "
                              "champion since: run again to compare it with that one")


def kept_out(decision: Decision, version: int, why: str) -> Decision:
    """Return the decision for a version that a person has rolled back: only a person puts it into use again.
    """
    return _refused(decision, f"version {version} was rolled back ({why}): `plumbline promote {version}` "
                              "puts it into use again")


def _refused(decision: Decision, why: str) -> Decision:
    return Decision(False, [*decision.reasons, why], decision.rules)


def as_markdown(version: int, decision: Decision) -> str:
    """Return the decision as a page for a person: the verdict, its reasons, and a table of the rules."""
    verdict = "becomes champion" if decision.promoted else "stays challenger"
    if decision.awaiting:
        verdict = f"awaits a person: `plumbline promote {version}` puts it into use"
    rows = [f"| {' | '.join(_cell(text) for text in rule.plain().values())} |" for rule in decision.rules]
    table = ["| rule | required | measured | verdict |", "|---|---|---|---|", *rows, ""]
    return "\n".join([f"# Version {version} {verdict}", "", *table, *_listed(decision.reasons), ""])


def _listed(reasons: Sequence[str]) -> list[str]:
    return [f"- {' '.join(reason.split())}" for reason in reasons]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _number(measured: Measured, key: str) -> float | None:
    """Return a figure; None if it is missing or no number."""
    value = measured.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
