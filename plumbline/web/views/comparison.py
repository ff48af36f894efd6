"""The pictures of the page of a comparison: win rates of all policies with their intervals, and their KL."""

from markupsafe import Markup

from plumbline.evaluation.comparing.comparison import PolicyComparison, title_of
from plumbline.web.drawing.charts import Bar, intervals


def candidate_rates(found: PolicyComparison) -> list[tuple[str, Markup]]:
    """Draw the win rates of all policies against each opponent, under its name."""
    drawn = []
    for opponent in found.opponents:
        rates = [(row.name, row.win_rates[opponent]) for row in found.rows]
        shown = [Bar(name, rate.value, rate.low, rate.high, f"n = {rate.n:,}") for name, rate in rates]
        drawn.append((title_of(opponent), intervals(shown, f"Win rates {title_of(opponent)}")))
    return drawn


def kl_bars(found: PolicyComparison) -> Markup:
    """Draw how far each policy is from SFT."""
    known = [Bar(row.name, row.kl) for row in found.rows if row.kl is not None]
    most = max((bar.value for bar in known), default=0.0)
    return intervals(known, "KL from SFT, nats an answer", None, 0.0, max(most, 1.0))
