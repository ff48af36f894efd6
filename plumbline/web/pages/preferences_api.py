"""`POST /api/preferences`: preferences that a program brings, one or many rows.

Everything goes through the same import as `plumbline data add`: the rows become one immutable batch, which is
on the disk before the answer, and starts the retraining like any other. The same content again changes
nothing.
"""

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool

from plumbline.data.intake import NothingUsable, Taken, take_in
from plumbline.errors import UserError
from plumbline.preferences.reading.results import Quarantined
from plumbline.web.site import site_of

NAME = "api.jsonl"
EXAMPLE = {"kind": "comparison", "prompt": [{"role": "user", "content": "Why?"}],
           "responses": ["Because.", "No."], "label": "A", "source": "house", "annotator": "ada"}
ROW = {"type": "object", "description": "A row of docs/data-formats.md: our own schema, or any format that "
                                        "is recognised by its fields.", "example": EXAMPLE}
BODY = {"requestBody": {"required": True, "content": {
    "application/json": {"schema": {"oneOf": [ROW, {"type": "array", "items": ROW}]}, "example": [EXAMPLE]},
    "application/x-ndjson": {"schema": {"type": "string"},
                             "example": orjson.dumps(EXAMPLE).decode() + "\n"}}}}

router = APIRouter()


class Problem(BaseModel):
    """A row that cannot be used."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    line: int
    """Counted from 1; in an array the number of the element."""
    field: str
    reason: str


class Received(BaseModel):
    """What became of the rows."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    batch: str | None
    """The digest of the batch; null where no row could be used, so that there is none."""
    already_there: bool
    """The same content had come before, and nothing changed."""
    accepted: int
    quarantined: int
    """Rows that cannot be used: they are kept beside the others, and no run learns from them."""
    problems: list[Problem]
    """Why, for the first of them."""
    unread: dict[str, int] = {}
    """Fields that nothing was made of, each with the number of rows that held something in it."""
    detail: str = ""
    """Where nothing could be used: the commonest problem, in a sentence."""


@router.post("/api/preferences", summary="Add preferences", openapi_extra=BODY, response_model=Received,
             status_code=201, responses={200: {"model": Received, "description": "The same content was there "
                                                                                 "already"},
                                         422: {"model": Received, "description": "No row could be used"}})
async def add_preferences(request: Request) -> JSONResponse:
    """Rows as a JSON object, a JSON array, or JSON lines. They become one batch: all that can be used, or
    none.

    201: the batch is on the disk. 200: the same content was there. 422: nothing could be used, `problems`
    says why.
    """
    body, home = _one_a_line(await request.body()), site_of(request).home
    try:
        taken = await run_in_threadpool(take_in, home, body, NAME)
    except NothingUsable as error:
        refused = Received(batch=None, already_there=False, accepted=0, quarantined=len(error.quarantined),
                           problems=_problems(error.quarantined), detail=str(error))
        return JSONResponse(refused.model_dump(), 422)
    return JSONResponse(_received(taken).model_dump(), 200 if taken.already_there else 201)


def _one_a_line(body: bytes) -> bytes:
    """Return the body with a single object on one line. Raises UserError for an empty body."""
    if not body.strip():
        raise UserError("The request is empty: expected rows as a JSON object, a JSON array or JSON lines; "
                        "see docs/data-formats.md.")
    if not body.lstrip().startswith(b"{"):
        return body
    try:
        return orjson.dumps(orjson.loads(body))
    except orjson.JSONDecodeError:
        return body  # JSON lines, or broken, which the import says better


def _received(taken: Taken) -> Received:
    batch = taken.arrival.batch
    return Received(batch=taken.arrival.digest, already_there=taken.already_there, accepted=batch.rows,
                    quarantined=batch.quarantined, problems=_problems(taken.quarantined), unread=batch.unread)


def _problems(quarantined: list[Quarantined]) -> list[Problem]:
    return [Problem(line=row.line, field=row.field, reason=row.reason) for row in quarantined]
