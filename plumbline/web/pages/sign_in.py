"""The page where a person gives the token; what it posts is checked at the door, by `plumbline.web.guard`."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from plumbline.web.security import SIGN_IN
from plumbline.web.site import site_of

router = APIRouter(include_in_schema=False)


@router.get(SIGN_IN)
def sign_in(request: Request) -> HTMLResponse:
    """The form for the token."""
    return site_of(request).page("sign_in.html")
