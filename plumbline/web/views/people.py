"""What people said of the answers of a run's evaluation, for the pages of models and runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from plumbline.errors import UserError
from plumbline.feedback.judging import PeopleFigures, people_on_run, said_in
from plumbline.history.history import Run
from plumbline.history.reports import Reports
from plumbline.project.home import Home
from plumbline.web.drawing.charts import Bar, intervals


@dataclass(frozen=True)
class PeopleView:
    """The figures of one evaluation, or why they are not known."""

    figures: Sequence[PeopleFigures]
    problem: str = ""

    @property
    def chart(self) -> Markup:
        """Draw the win rates by people with their intervals."""
        bars = [Bar(f"against {one.named}", one.win_rate.value, one.win_rate.low, one.win_rate.high,
                    f"n = {one.win_rate.n}") for one in self.figures]
        return intervals(bars, "Win rates by people")


def people_of(home: Home, reports: Reports, run: Run | None) -> PeopleView:
    """Return what people said of a run's held-out answers."""
    try:
        return PeopleView(people_on_run(said_in(home), reports, run))
    except UserError as error:
        return PeopleView((), str(error))
