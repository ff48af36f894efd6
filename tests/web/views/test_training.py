"""The curves of a training that its run's page draws."""

from plumbline.history.reports import Curve
from plumbline.web.views.training import drawn


def test_each_source_of_a_reward_is_drawn_by_itself() -> None:
    points = ((1.0, 0.5), (2.0, 0.75))
    names = ("reward", "reward_of_reward", "reward_of_no_lists", "length_penalty", "nobody_looks_at_this")
    charts = drawn([Curve(name, points) for name in names])
    assert [sum(label in chart for chart in charts) for label in
            ("Reward, reward alone", "Reward, no_lists alone", "Penalties, in deviations", "nobody")] == [1, 1, 1, 0]
    assert len(charts) == 4
