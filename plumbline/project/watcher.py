"""The watcher of a run: the terminal under `plumbline run`, none in a deployment.

The flow takes only what can be written in a form, so the watcher reaches the stages through a context
variable.
"""

from collections.abc import Mapping
from contextvars import ContextVar

from plumbline.project.run_record import Outcome

Report = Mapping[str, object]
"""One progress report of a stage: what, step, total, eta_s, metrics."""


class Watcher:
    """Is called as a run goes on; this one does nothing."""

    def started(self, stage: str) -> None:
        """Take note that a stage has been started."""

    def progress(self, stage: str, report: Report) -> None:
        """Take a progress report of a stage."""

    def planned(self, stage: str, needs: str) -> None:
        """Take note of what a stage will need, before anything starts."""

    def noticed(self, stage: str, finding: str) -> None:
        """Take note of something wrong with the training of a stage."""

    def done(self, stage: str, outcome: Outcome) -> None:
        """Take note of the outcome of a stage."""


watcher: ContextVar[Watcher] = ContextVar("watcher", default=Watcher())  # noqa: B039 - it holds no state
