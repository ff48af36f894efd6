"""`POST /hooks/argilla` and `/hooks/label-studio`: what annotators do there arrives here, and starts the
retraining.

The guard leaves these paths to this file: a request proves itself by its signature, not by the pages' token.
Until it has, nothing in it is understood, and without a secret or a signature it is not even read.
"""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from plumbline.data.annotation_changes import accept
from plumbline.data.annotation_hooks import ARGILLA, LABEL_STUDIO, NotConfigured, NotSigned, admit, check
from plumbline.data.intake import NothingUsable
from plumbline.web.bodies import whole_body
from plumbline.web.site import site_of

router = APIRouter()


@router.post("/hooks/argilla", summary="Argilla's webhook")
async def argilla(request: Request) -> JSONResponse:
    """Subscribe it to `response.created`, `response.updated`, `response.deleted` and `record.deleted`.

    Its secret is in PLUMBLINE_ARGILLA_SECRET.
    """
    return await _received(ARGILLA, request)


@router.post("/hooks/label-studio", summary="Label Studio's webhook")
async def label_studio(request: Request) -> JSONResponse:
    """For annotations created, updated and deleted, and tasks deleted, with payload and a header of its own.

    The header is `Authorization: Bearer SECRET`.

    The secret is in PLUMBLINE_LABEL_STUDIO_SECRET.
    """
    return await _received(LABEL_STUDIO, request)


async def _received(tool: str, request: Request) -> JSONResponse:
    try:
        admit(tool, request.headers)
        body = await whole_body(request, request.receive)
        check(tool, request.headers, body)
    except NotSigned as error:
        return JSONResponse({"detail": str(error)}, 401)
    except NotConfigured as error:
        return JSONResponse({"detail": str(error)}, 503)
    try:
        return JSONResponse(await run_in_threadpool(accept, site_of(request).home, tool, body))
    except NothingUsable as error:
        return JSONResponse({"detail": str(error)}, 422)
    except RecursionError:
        return JSONResponse({"detail": f"The request is not a webhook of {tool}: it is nested too deeply."},
                            400)
