"""The feedback pages: compare two answers blind, rank several, and see who has said what.

    GET  /feedback            a pair of answers, sides at random, keys for everything
    GET  /feedback/ranking    several answers to put in order
    GET  /feedback/people     each annotator's verdicts, agreement and habits
    POST /feedback/name       who judges in this browser
    POST /feedback/verdicts   a verdict; answered when it is on the disk
    POST /feedback/undo       take the last one back

Which model gave which answer is told after the verdict.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from plumbline.errors import UserError
from plumbline.feedback.contestants import contestants_of
from plumbline.feedback.next_pair import annotators, next_pair, order_seed, shown_order
from plumbline.feedback.service import FeedbackService
from plumbline.feedback.store import now
from plumbline.feedback.verdicts import CHOICES, STRENGTHS, Choice, OfferedAnswer, OfferedPair, Verdict
from plumbline.web.annotator import (
    feedback_service,
    keep_name,
    keep_session,
    name_of,
    new_session,
    session_of,
    tidy,
)
from plumbline.web.security import form_of, signed_in
from plumbline.web.site import Site, site_of
from plumbline.web.views.feedback import FeedbackProgress, feedback_progress

LETTERS = "ABCDEFGH"
LONGEST_COMMENT = 4000
LONGEST_KEY = 64
BACK = {"feedback": "/feedback", "ranking": "/feedback/ranking", "try it": "/try?kept=1"}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run the feedback service as long as the server runs."""
    service = feedback_service(app)
    service.open()
    yield
    await asyncio.to_thread(service.close)


router = APIRouter(include_in_schema=False, lifespan=lifespan)


@router.get("/feedback")
def compare(request: Request, pair: str | None = None) -> Response:
    """Show a pair to judge."""
    return _ask(request, pair, ranking=False)


@router.get("/feedback/ranking")
def rank(request: Request, pair: str | None = None) -> Response:
    """Show several answers to put in order."""
    return _ask(request, pair, ranking=True)


@router.get("/feedback/people")
def people(request: Request) -> HTMLResponse:
    """Show each annotator's verdicts."""
    store = feedback_service(request.app).store()
    return site_of(request).page("feedback_people.html", people=annotators(store))


@router.post("/feedback/name")
async def name(request: Request) -> Response:
    """Set the name of who judges in this browser."""
    form = await form_of(request)
    answer = RedirectResponse(BACK.get(form.get("back", ""), "/feedback"), 303)
    keep_name(request, answer, form.get("name", ""))
    return answer


async def verdicts(request: Request) -> Response:
    """Store a verdict, and show the next pair."""
    form = await form_of(request)
    store = feedback_service(request.app).store()
    pair = store.pair(form.get("pair", ""))
    verdict = _verdict(form, pair, name_of(request) or tidy(form.get("name", "")),
                       session_of(request) or new_session())
    await asyncio.wrap_future(store.submit(verdict))
    kind = "ranking" if pair and _is_ranking(pair) else "feedback"
    answer = RedirectResponse(BACK["try it" if pair and pair.source == "try it" else kind], 303)
    keep_session(request, answer, verdict.session)
    if not name_of(request):
        keep_name(request, answer, verdict.annotator)
    return answer


# Without FastAPI's analysis of parameters, of which there are none: five hundred a second are to fit.
router.add_route("/feedback/verdicts", verdicts, methods=["POST"], include_in_schema=False)


@router.post("/feedback/undo")
async def undo(request: Request) -> Response:
    """Take back a verdict of this browser, and show its pair again."""
    form = await form_of(request)
    service = feedback_service(request.app)
    taken_back = await asyncio.to_thread(service.store().undo, form.get("key", ""), session_of(request))
    if taken_back is None:
        raise UserError("This browser session has no such verdict: only what was said in it can be undone "
                        "here.")
    pair = await asyncio.to_thread(service.store().pair, taken_back.pair)
    page = "/feedback/ranking" if pair and _is_ranking(pair) else "/feedback"
    return RedirectResponse(f"{page}?pair={taken_back.pair}", 303)


@dataclass(frozen=True)
class Last:
    """What this session said last, with what was hidden then."""

    verdict: Verdict
    pair: OfferedPair
    answers: Sequence[tuple[str, OfferedAnswer]]
    """As they were shown, with their letters."""


@dataclass(frozen=True)
class View:
    """What the page shows."""

    ranking: bool
    name: str
    progress: FeedbackProgress | None
    last: Last | None = None
    pair: OfferedPair | None = None
    order: str = ""
    """What the order of the pair's answers on the page is drawn from."""
    making: bool = False
    """True if answers are on their way."""
    problem: str = ""
    """Why there is nothing to judge."""

    @property
    def answers(self) -> Sequence[tuple[str, OfferedAnswer]]:
        """Return the pair's answers with their letters, in their order."""
        return _lettered(self.pair, shown_order(self.pair, self.order)) if self.pair else []


def _ask(request: Request, named: str | None, ranking: bool) -> Response:
    site, service, who = site_of(request), feedback_service(request.app), name_of(request)
    view = View(ranking, who, feedback_progress(site.freshness.due, service.store()))
    session = session_of(request) or new_session()
    judging = bool(who) and signed_in()
    if judging:
        pair = _named(service, named, ranking) or next_pair(service.store(), who, ranking)
        making, problem = _stock(site, service, ranking)
        view = replace(view, last=_last(service, session), pair=pair, making=making, problem=problem,
                       order=order_seed(pair, who) if pair else "")
    page = site.page("feedback.html", script=True, view=view, key=secrets.token_hex(16), strengths=STRENGTHS)
    if judging:
        keep_session(request, page, session)
    return page


def _named(service: FeedbackService, name: str | None, ranking: bool) -> OfferedPair | None:
    """Return the pair that an undo leads back to, if it is of this page."""
    pair = service.store().pair(name) if name else None
    return pair if pair and _is_ranking(pair) == ranking else None


def _is_ranking(pair: OfferedPair) -> bool:
    """True if the pair's answers are put in order, and not compared."""
    return len(pair.answers) > 2


def _stock(site: Site, service: FeedbackService, ranking: bool) -> tuple[bool, str]:
    """Return whether pairs are being made, and otherwise why not."""
    try:
        contestants_of(site.history)
    except UserError as error:
        return False, str(error)
    making = service.keep_stock(ranking)
    return making, "" if making else service.problem


def _last(service: FeedbackService, session: str) -> Last | None:
    verdict = service.store().last(session)
    pair = service.store().pair(verdict.pair) if verdict else None
    return Last(verdict, pair, _lettered(pair, verdict.shown)) if verdict and pair else None


def _lettered(pair: OfferedPair, shown: Sequence[int]) -> Sequence[tuple[str, OfferedAnswer]]:
    return [(LETTERS[place], pair.answers[number]) for place, number in enumerate(shown)]


def _verdict(form: Mapping[str, str], pair: OfferedPair | None, who: str, session: str) -> Verdict:
    """Return the verdict on a pair that a form holds. Raises UserError for a form without one."""
    if not who:
        raise UserError("Nobody is named as the annotator. Give your name on the feedback page first.")
    choice = _choice("best" if "best" in form else form.get("choice", ""))
    shown = _shown(form, pair)
    key = form.get("key", "")
    if not 8 <= len(key) <= LONGEST_KEY or not key.isascii():
        raise UserError(f"A verdict needs a key of 8 to {LONGEST_KEY} characters, which makes sending it "
                        "again harmless.")
    strength = _number(form["strength"], "strength") if form.get("strength") else None
    return Verdict(key, form.get("pair", ""), choice, who, session, shown, now(),
                   _ranks(form, choice, len(shown)),
                   strength if choice in ("A", "B") else None,
                   form.get("comment", "").replace("\0", "").strip()[:LONGEST_COMMENT])


def _shown(form: Mapping[str, str], pair: OfferedPair | None) -> tuple[int, ...]:
    """Return the order in which the answers were shown: drawn again from the page's seed, or as `shown` says.

    Empty if the pair is not known.
    """
    if "order" in form:
        return shown_order(pair, form["order"]) if pair else ()
    return tuple(_number(part, "shown") for part in form.get("shown", "").split(","))


def _ranks(form: Mapping[str, str], choice: Choice, answers: int) -> tuple[int, ...] | None:
    """Return each shown answer's rank, or None for a choice without ranks.

    Fields that nobody filled in are sent, too: with a skip the ranks are empty.
    """
    if choice == "ranking":
        return tuple(_number(form[name], name) for name in sorted(form) if name.startswith("rank-"))
    if choice == "best":
        best = _number(form.get("best", ""), "best")
        return tuple(1 if place == best else 2 for place in range(answers))
    return None


def _choice(given: str) -> Choice:
    for known in CHOICES:
        if given == known:
            return known
    raise UserError(f"The choice should be one of {', '.join(CHOICES)}; found {given!r:.40}.")


def _number(text: str, field: str) -> int:
    if text.isascii() and text.isdecimal() and len(text) < 4:
        return int(text)
    raise UserError(f"`{field}` should hold whole numbers; found {text!r:.40}.")
