"""Who watches a run: the terminal while `plumbline run` has one, nobody in a deployment.

The flow takes only what can be written in a form, so the watcher reaches the stages through a context variable.
"""

from collections.abc import Mapping
from contextvars import ContextVar

from plumbline.project.run_record import Outcome

Report = Mapping[str, object]
"""One progress report of a stage: what, step, total, eta_s, metrics."""


class Watcher:
    """Hears what happens; does nothing with it."""

    def started(self, stage: str) -> None:
        """A stage has been started."""

    def progress(self, stage: str, report: Report) -> None:
        """A stage says how far it is."""

    def done(self, stage: str, outcome: Outcome) -> None:
        """A stage has ended, one way or the other."""


watcher: ContextVar[Watcher] = ContextVar("watcher", default=Watcher())  # noqa: B039 - it holds no state
