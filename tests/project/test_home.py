"""What a project sets in the environment: no proxy stands before its own servers."""

import os
from pathlib import Path

import pytest

from plumbline.project.home import Home, enter

HERE = "127.0.0.1,localhost,::1"


@pytest.mark.parametrize(("lower", "upper", "wanted"), [
    (None, None, (HERE, HERE)),
    ("example.org, 10.0.0.1", None, (f"example.org,10.0.0.1,{HERE}", f"example.org,10.0.0.1,{HERE}")),
    (None, "example.org", (f"example.org,{HERE}", f"example.org,{HERE}")),
    ("a.org", "b.org", (f"a.org,{HERE}", f"b.org,{HERE}")),
    ("localhost,a.org", None, ("localhost,a.org,127.0.0.1,::1", "localhost,a.org,127.0.0.1,::1")),
    ("*", None, ("*", "*"))])
def test_this_machine_is_reached_without_a_proxy_and_so_is_what_the_user_listed(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lower: str | None, upper: str | None,
        wanted: tuple[str, str]) -> None:
    for name, given in (("no_proxy", lower), ("NO_PROXY", upper)):
        monkeypatch.delenv(name, raising=False)
        if given is not None:
            monkeypatch.setenv(name, given)
    for _ in range(2):  # entered again nothing is listed twice
        enter(Home(tmp_path, tmp_path / ".plumbline"))
        assert (os.environ["no_proxy"], os.environ["NO_PROXY"]) == wanted
