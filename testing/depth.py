"""How many examples a property is tried on: a few for each push, all of them in `make test-all`."""

from hypothesis import HealthCheck, settings

PUSH, FULL = "push", "full"
PUSH_EXAMPLES = 30


def register_depths() -> None:
    """Register both profiles and load the quick one; `--hypothesis-profile full` loads the other."""
    # A machine that is busy with other tests is no reason to fail one.
    busy = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
    settings.register_profile(FULL, busy)
    settings.register_profile(PUSH, busy, max_examples=PUSH_EXAMPLES)
    settings.load_profile(PUSH)


def examples(most: int) -> settings:
    """Return the settings of a property that takes so many examples to be sure of, and fewer for a push."""
    full = settings.get_current_profile_name() == FULL
    return settings(max_examples=most if full else PUSH_EXAMPLES)
