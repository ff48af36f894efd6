"""`Try it`: type a prompt, and champion, challenger and SFT answer side by side, with their rewards.

    GET  /try    the form
    POST /try    the answers, as they come: the page is sent piece by piece, and needs no script
    POST /feedback/verdicts turns the comparison into feedback; see feedback.py

The models run in a process of their own, which plumbline.feedback.live_answers starts.
"""

import secrets
from collections.abc import AsyncIterator, Iterator
from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response, StreamingResponse
from markupsafe import Markup, escape
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool

from plumbline.errors import UserError
from plumbline.feedback.contestants import Contestants, contestants_of
from plumbline.feedback.live_answers import AnswerPiece, FinishedAnswer
from plumbline.feedback.pairs import kind_of
from plumbline.feedback.service import FeedbackService
from plumbline.feedback.store import FeedbackStore
from plumbline.feedback.verdicts import OfferedAnswer, OfferedPair
from plumbline.preferences.reading.conversations import Unusable, as_text, user_prompt
from plumbline.preferences.types import Prompt
from plumbline.web.annotator import feedback_service, keep_session, name_of, new_session, session_of
from plumbline.web.security import SCRIPT_POLICY, form_of, signed_in
from plumbline.web.site import Site, site_of

LONGEST_PROMPT = 4000
REASON = "Asked on the page “Try it”."
CUT = "<!-- answers -->"
"""Where the template is cut in two: what comes before the answers, and what after."""
PROBLEM = Markup('</div></section></div><p class="notice bad" role="alert">{}</p>')
NO_VERDICT = Markup('<p class="soft">These answers cannot be compared: fewer than two of them differ.</p>')

router = APIRouter(include_in_schema=False)


@router.get("/try")
def form(request: Request, kept: bool = False) -> HTMLResponse:
    """Show the form for a prompt."""
    site = site_of(request)
    try:
        contestants_of(site.history)
        problem = ""
    except UserError as error:
        problem = str(error)
    return site.page("try.html", script=True, problem=problem, kept=kept, prompt="", answering=False,
                     longest=LONGEST_PROMPT)


@router.post("/try")
async def answers(request: Request) -> Response:
    """Send the answers to a prompt as they come."""
    site, service = site_of(request), feedback_service(request.app)
    given = (await form_of(request)).get("prompt", "")
    prompt, contestants = _prompt(given), contestants_of(site.history)
    page = str(site.page("try.html", script=True, problem="", kept=False, prompt=given, answering=True,
                         longest=LONGEST_PROMPT).body, "utf-8")
    session = session_of(request) or new_session()
    stream = _stream(site, service, request, contestants, prompt, page)
    answer = StreamingResponse(stream, media_type="text/html", headers={
        "content-security-policy": SCRIPT_POLICY, "x-accel-buffering": "no"})
    keep_session(request, answer, session)
    return answer


def _prompt(given: str) -> Prompt:
    """Return the typed prompt. Raises UserError for an empty or too long one."""
    if len(given) > LONGEST_PROMPT:
        raise UserError(f"The prompt has {len(given):,} characters, and {LONGEST_PROMPT:,} are allowed here.")
    try:
        return user_prompt(as_text(given.strip().replace("\r\n", "\n"), "prompt"))
    except Unusable as problem:
        raise UserError(f"The prompt cannot be used: {problem.reason}.") from None


async def _stream(
    site: Site, service: FeedbackService, request: Request, contestants: Contestants, prompt: Prompt,
    page: str,
) -> AsyncIterator[str]:
    """Yield the page: its beginning at once, the answers as they come, its end."""
    before, after = page.split(CUT)
    yield before
    finished: list[FinishedAnswer] = []
    events = service.live_answers.answers(contestants, prompt)
    try:
        yield str(_begin(contestants, 0))
        async for event in iterate_in_threadpool(events):
            if isinstance(event, AnswerPiece):
                yield str(escape(event.text))
            else:
                finished.append(event)
                yield str(_end(event))
                if event.model + 1 < len(contestants.models):
                    yield str(_begin(contestants, event.model + 1))
        ask = partial(_verdict_form, site, service.store(), request, contestants, prompt, finished)
        yield "</div>" + await run_in_threadpool(ask)
    except UserError as error:
        yield str(PROBLEM.format(str(error)))
    finally:
        events.close()
    yield after


def _begin(contestants: Contestants, model: int) -> Markup:
    return Markup('<section class="card side"><h2>{} <span class="soft">{}</span></h2>'
                  '<div class="untrusted answer">').format(model + 1, contestants.models[model].name)


def _end(finished: FinishedAnswer) -> Markup:
    reward = "no answer" if finished.reward is None else f"reward {finished.reward:.2f}"
    return Markup('</div><p class="reward">{}</p></section>').format(reward)


def _verdict_form(site: Site, store: FeedbackStore, request: Request, contestants: Contestants,
                  prompt: Prompt, finished: list[FinishedAnswer]) -> str:
    """Store the pair, and return the buttons that turn the comparison into feedback."""
    different = list(_different(finished))
    if len(different) < 2:
        return str(NO_VERDICT)
    answers = []
    for one in different:
        model = contestants.models[one.model]
        reward = None if one.reward is None else round(one.reward, 4)
        answers.append(OfferedAnswer(one.text, model.name, model.digest, reward))
    pair = OfferedPair(prompt, tuple(answers), REASON, kind_of(prompt), "try it")
    store.add_pairs([pair])
    numbers = [(one.model + 1, contestants.models[one.model].name) for one in different]
    return site.templates.get_template("try_verdict.html").render(
        pair=pair, numbers=numbers, key=secrets.token_hex(16), name=name_of(request), signed_in=signed_in())


def _different(finished: list[FinishedAnswer]) -> Iterator[FinishedAnswer]:
    """Yield answers with a text, each text once."""
    seen: set[str] = set()
    for one in finished:
        if one.text.strip() and one.text not in seen:
            seen.add(one.text)
            yield one
