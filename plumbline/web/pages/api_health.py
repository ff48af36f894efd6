"""Whether the server is up, for programs that wait for it."""

from fastapi import APIRouter

from plumbline import __version__

router = APIRouter()


@router.get("/api/health", summary="Whether the server is up")
def health() -> dict[str, str]:
    """Answers as soon as the history has been read."""
    return {"status": "ok", "version": __version__}
