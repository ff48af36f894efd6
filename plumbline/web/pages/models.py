"""The model pages: every version of the policy, what is known of each, and the forms that change the
champion.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from markupsafe import Markup
from starlette.concurrency import run_in_threadpool

from plumbline.errors import UserError
from plumbline.evaluation.ratings import Strength
from plumbline.evaluation.samples import Sample
from plumbline.feedback.judging import judging_pairs
from plumbline.history.history import History, Move, RegisteredVersion, Run
from plumbline.history.reports import Curve, Reports
from plumbline.history.standings import standings
from plumbline.lineage.graph import Graph, Ref
from plumbline.tracking.registry import CHAMPION, NO_CHAMPION, PREVIOUS, Registry
from plumbline.tracking.store import asking_mlflow
from plumbline.web.annotator import feedback_service
from plumbline.web.drawing.charts import Bar, Series, intervals, lines
from plumbline.web.drawing.markdown import ReportBlock, blocks
from plumbline.web.security import form_of
from plumbline.web.site import NotFound, Site, site_of, url
from plumbline.web.views.home import OPPONENTS, champion_of, kl_to_sft, trends, win_rates
from plumbline.web.views.lineage import figure_of, name_of
from plumbline.web.views.people import people_of
from plumbline.web.views.run import decision_of
from plumbline.web.views.sides import comparable

SECTION = "Models"
PAGE, SAMPLES_A_PAGE = 50, 10
VIEWS = {"about": "About", "curves": "Training", "reward": "Reward model", "evaluation": "Evaluation",
         "samples": "Samples"}
TRAINED = {"ppo": "PPO", "reward_model": "Reward model", "sft": "SFT", "base": "Base model"}
MOST_NODES = 60
TELLING = ("reward", "kl", "loss", "accuracy", "length", "stopped", "entropy")
"""The curves that one looks at first."""
PICTURES = {"calibration": ("reward_eval", "report/calibration.png"),
            "scores": ("reward_eval", "report/scores.png"),
            "overoptimisation": ("preference_eval", "report/overoptimisation.png")}
"""The stage and the file of each picture that a page shows."""
SHARES = (("accuracy", "the reward model, held-out"),
          ("accuracy_length_similar", "the same on pairs of similar length"),
          ("longer_baseline_accuracy", "preferring the longer response"),
          ("shorter_baseline_accuracy", "preferring the shorter response"),
          ("ceiling_accuracy", "the gold reward on the same labels: the ceiling"),
          ("gold_agreement", "the reward model on the gold reward's order"))
LONGEST_NAME, LONGEST_REASON = 100, 2000

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class ModelView:
    """One version with what is known of it."""

    version: RegisteredVersion
    run: Run | None
    """The run that evaluated it last; None where its records are gone, or `dvc repro` did."""
    rates: Sequence[Bar]
    rating: Strength | None = None
    """None where no evaluation of it by an independent judge is known."""

    @property
    def chart(self) -> Markup:
        """Draw its win rates with their intervals."""
        return intervals(self.rates, "Win rates")

    @property
    def kl(self) -> float | None:
        """Return its KL to SFT in nats a response, or None."""
        return kl_to_sft(self.run) if self.run else None

    def against(self, opponent: str) -> Bar | None:
        """Return its win rate against `sft`, `champion` or another name of OPPONENTS, or None."""
        label = dict(OPPONENTS)[opponent]
        return next((bar for bar in self.rates if bar.label == label), None)

    def figure(self, stage: str, name: str) -> float | None:
        """Return a metric of a stage of its run, or None."""
        step = self.run.steps.get(stage) if self.run else None
        return step.metrics.get(name) if step else None


@router.get("/models")
def models(request: Request, page: int = 1) -> HTMLResponse:
    """Show all versions, newest first, and how they developed."""
    site = site_of(request)
    numbers = list(site.history.versions)
    pages = max(1, -(-len(numbers) // PAGE))
    page = min(max(1, page), pages)
    shown = [model_of(site.history, number) for number in numbers[(page - 1) * PAGE:page * PAGE]]
    return site.page("models.html", section=SECTION, models=shown, page=page, pages=pages, total=len(numbers),
                     trends=trends(site.history), runs=site.history.runs, comparable=comparable(site.history),
                     can_roll_back=site.history.version(PREVIOUS) is not None)


@router.get("/models/roll-back")
def ask_roll_back(request: Request) -> HTMLResponse:
    """Show what rolling back does, and ask for a reason."""
    return _ask(site_of(request), None)


@router.post("/models/roll-back")
async def roll_back(request: Request) -> Response:
    """Put the version before the champion into use again."""
    return await _change(request, None)


@router.get("/models/{number}/promote")
def ask_promote(request: Request, number: int) -> HTMLResponse:
    """Show what promoting does, and ask for a reason."""
    return _ask(site_of(request), number)


@router.post("/models/{number}/promote")
async def promote(request: Request, number: int) -> Response:
    """Put a version into use."""
    return await _change(request, number)


@router.post("/models/{number}/judge")
def judge(request: Request, number: int) -> Response:
    """Offer the version's held-out answers to people, and lead to the feedback page."""
    site = site_of(request)
    run = model_of(site.history, number).run
    if run is None:
        raise NotFound(f"The records of the run that made version {number} are gone, and its answers with "
                       "them.")
    feedback_service(request.app).store().add_pairs(judging_pairs(site.reports.samples(run), run))
    return RedirectResponse("/feedback", 303)


@router.get("/models/{number}/pictures/{name}")
def picture(request: Request, number: int, name: str) -> Response:
    """Return a picture of the reward model's examination, or of the evaluation."""
    site = site_of(request)
    run = model_of(site.history, number).run
    file = site.reports.file(run, *PICTURES[name]) if run and name in PICTURES else None
    if file is None:
        raise NotFound(f"Version {number} has no picture of that name.")
    return FileResponse(file, media_type="image/png")


@router.get("/models/{name}")
def model(request: Request, name: str, view: str = "about", at: int = 0, done: str = "") -> Response:
    """Show one version; an alias leads to the version that has it."""
    site = site_of(request)
    if not name.isdecimal():
        return RedirectResponse(url("models", find_version(site.history, name).number), status_code=307)
    found = model_of(site.history, find_version(site.history, name).number)
    view, reports, at = view if view in VIEWS else "about", site.reports, max(at, 0)
    context: dict[str, object] = {}
    if view == "about":
        context = _about(site.history, found.version)
        context["decision"] = decision_of(reports, found.run) if found.run else None
        context["people"] = people_of(site.home, reports, found.run)
    elif found.run is not None and view == "curves":
        context["stages"] = {label: [_drawn(curve) for curve in _ordered(reports.curves(found.run, stage))]
                             for stage, label in TRAINED.items()}
        context["findings"] = {label: reports.findings(found.run, stage) for stage, label in TRAINED.items()}
    elif found.run is not None and view == "reward":
        context = {"accuracies": _accuracies(found),
                   "report": _blocks(reports, found.run, "reward_eval", "report.md"),
                   "worst": _blocks(reports, found.run, "reward_eval", "worst.md"),
                   "pictures": _pictures(reports, found.run, "reward_eval")}
    elif found.run is not None and view == "evaluation":
        context = {"report": _blocks(reports, found.run, "preference_eval", "report.md"),
                   "pictures": _pictures(reports, found.run, "preference_eval")}
    elif found.run is not None and view == "samples":
        context = _samples(reports.samples(found.run), at)
    return site.page("model.html", section=SECTION, model=found, view=view, views=VIEWS, done=done,
                     about=context, champion=champion_of(site.history), runs=site.history.runs,
                     comparable=comparable(site.history),
                     can_roll_back=site.history.version(PREVIOUS) is not None)


def _pictures(reports: Reports, run: Run, of: str) -> list[str]:
    """Return the names of the pictures that a stage of the run left."""
    wanted = {name: file for name, (stage, file) in PICTURES.items() if stage == of}
    return [name for name, file in wanted.items() if reports.file(run, of, file)]


def find_version(history: History, name: str) -> RegisteredVersion:
    """Return the version with that number or alias. Raises NotFound."""
    found = history.version(name)
    if found is None:
        raise NotFound(f"There is no version {name!r:.60} of the policy: expected its number, or champion, "
                       "challenger, previous or awaiting. The page Models lists them all.")
    return found


def model_of(history: History, number: int) -> ModelView:
    """Return a version with its run and win rates. Raises NotFound."""
    version = find_version(history, str(number))
    run = history.runs.get(version.run)
    return ModelView(version, run, win_rates(run) if run else [], standings(history).get(number))


def _about(history: History, version: RegisteredVersion) -> dict[str, object]:
    graph, ref = history.graph, Ref("version", str(version.number))
    upstream = graph.upstream(ref)
    policy = next((near for near, steps in upstream.items() if steps == 1 and near.kind == "policy"), ref)
    own = {ref, *upstream}
    downstream = {far: steps for far, steps in graph.downstream(policy).items() if far not in own}
    judged = [other for other in history.versions.values() if other.compared_with == version.number]
    return {"moves": moves_of(history, version.number), "known": ref in graph.nodes,
            "upstream": _nodes(graph, upstream), "downstream": _nodes(graph, downstream),
            "judged": judged[:50]}


def moves_of(history: History, number: int) -> list[Move]:
    """Return the moves of aliases to a version and away from it, newest first."""
    return [move for move in history.moves if number in (move.before, move.after)]


def _nodes(graph: Graph, found: dict[Ref, int]) -> list[tuple[Ref, str, str, int]]:
    """Return at most MOST_NODES nodes with name, figure and number of steps, the nearest first."""
    nearest = sorted(found.items(), key=lambda pair: pair[1])[:MOST_NODES]
    return [(ref, name_of(graph.nodes[ref]), figure_of(graph.nodes[ref]), steps) for ref, steps in nearest]


def _ordered(curves: Sequence[Curve]) -> list[Curve]:
    place = {name: at for at, name in enumerate(TELLING)}
    return sorted(curves, key=lambda curve: place.get(curve.name, len(place)))


def _drawn(curve: Curve) -> Markup:
    return lines([Series(curve.name, curve.points)], curve.name.replace("_", " "), x="step")


def _accuracies(found: ModelView) -> Markup:
    """Draw the shares of held-out comparisons that were ordered rightly, the reward model's first."""
    bars = [Bar(label, value, found.figure("reward_eval", f"{name}_low"),
                found.figure("reward_eval", f"{name}_high"))
            for name, label in SHARES if (value := found.figure("reward_eval", name)) is not None]
    return intervals(bars, "Right on held-out comparisons")


def _blocks(reports: Reports, run: Run, stage: str, name: str) -> list[ReportBlock]:
    text = reports.text(run, stage, f"report/{name}")
    return blocks(text)[1:] if text else []  # without the title


def _samples(found: Sequence[Sample], at: int) -> dict[str, object]:
    return {"samples": found[at:at + SAMPLES_A_PAGE], "at": at, "size": SAMPLES_A_PAGE, "all": len(found)}


def _target(history: History, number: int | None) -> RegisteredVersion | None:
    """Return the version that would come into use; without a number the one before the champion."""
    return find_version(history, str(number)) if number is not None else history.version(PREVIOUS)


def _ask(site: Site, number: int | None, reason: str = "", by: str = "", problem: str = "",
         status: int = 200) -> HTMLResponse:
    """Show the page on which a change is confirmed."""
    target, champion = _target(site.history, number), site.history.version(CHAMPION)
    models = [model_of(site.history, one.number) for one in (champion, target) if one is not None]
    people = people_of(site.home, site.reports, models[-1].run) if models else None
    return site.page("model_change.html", status, section=SECTION, number=number, target=target,
                     people=people, champion=champion, models=models, reason=reason, by=by, problem=problem,
                     comparable=comparable(site.history), no_champion=NO_CHAMPION,
                     longest=(LONGEST_NAME, LONGEST_REASON))


async def _change(request: Request, number: int | None) -> Response:
    """Make the confirmed change; an error is shown on the same page, with the reason kept."""
    site = site_of(request)
    fields = await form_of(request)
    reason, by = fields.get("reason", "").strip(), fields.get("by", "").strip()
    try:
        if not (0 < len(by) <= LONGEST_NAME and 0 < len(reason) <= LONGEST_REASON):
            raise UserError("Say who you are and why, so that whoever reads the history understands: at most "
                            f"{LONGEST_NAME} and {LONGEST_REASON:,} characters.")
        made = await run_in_threadpool(_move, site, number, reason, by, fields.get("seen", ""))
    except NotFound:
        raise
    except UserError as error:
        return await run_in_threadpool(_ask, site, number, reason, by, str(error), 409)
    return RedirectResponse(url("models", made, done="promoted" if number is not None else "rolled-back"),
                            303)


def _move(site: Site, number: int | None, reason: str, by: str, seen: str) -> int:
    """Change the champion, and return its number."""
    target = _target(site.history, number)
    if target is None:
        raise UserError("There is no version before the champion to go back to.")
    champion = int(seen) if seen.isdecimal() else None
    with asking_mlflow(site.home, ". Try again when it does; the page Models says then which version is "
                                  "champion."):
        registry = Registry.open(site.home, target.name)
        made = registry.roll_back(reason, by, champion) if number is None else \
            registry.promote(target.number, reason, by, champion)
    with suppress(UserError):  # MLflow went away since: the change is made, and is shown when it is back
        site.history.refresh()
    return made.version
