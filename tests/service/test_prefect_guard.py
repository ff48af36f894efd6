"""Prefect's server obeys nobody but who has its key: not another user's program, not a page of another site."""

import base64
import json
import stat
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from plumbline.project.home import Home
from plumbline.service.parts import make_parts
from testing.attacking_page import NAME, attack, evil_site, victim
from testing.running_service import Up

pytestmark = [pytest.mark.slow]


def basic(key: str) -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode(key.encode()).decode()}"}


def post(up: Up, headers: dict[str, str], path: str = "deployments/filter", body: bytes = b"{}") -> int:
    request = urllib.request.Request(f"{up.client['PREFECT_API_URL']}/{path}", body,
                                     {"content-type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def deployment(up: Up) -> dict[str, object]:
    [found] = up.call("deployments/filter", {})  # type: ignore[misc]
    assert isinstance(found, dict)
    return found


def test_only_the_key_opens_it(up: Up) -> None:
    file = up.home / "service/prefect_key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    port = up.client["PREFECT_API_URL"].rpartition(":")[2].removesuffix("/api")
    key = basic(up.key)
    assert post(up, key) == 200
    assert post(up, {**key, "host": f"localhost:{port}", "origin": f"http://localhost:{port}"}) == 200
    assert post(up, {**key, "origin": f"http://localhost:{port}"}) == 200, "its own pages, by its other name"
    for without in ({}, basic("wrong"), basic(""), {"authorization": f"Bearer {up.key}"}):
        assert post(up, without) == 401
        assert post(up, without, "deployments/", b'{"name": "x"}') == 401
    # A page that has reached in by a name of its own, and pages of other sites: refused even with the key.
    for foreign in ("evil.example", f"evil.example:{port}", "localhost.evil.example", "prefect"):
        assert post(up, {**key, "host": foreign}) == 400, foreign
    for foreign in ("null", "http://evil.example", f"http://evil.example:{port}", "http://localhost:1",
                    f"http://203.0.113.7:{port}", f"http://localhost.evil.example:{port}", "file://", "http://[::"):
        assert post(up, {**key, "origin": foreign}) == 403, foreign
    with urllib.request.urlopen(f"{up.client['PREFECT_API_URL']}/health", timeout=30) as answer:
        assert answer.status == 200, "how it is it says to anybody on this machine"


def test_websockets_need_it_too(up: Up) -> None:
    url = up.client["PREFECT_API_URL"].replace("http", "ws")

    def opened(path: str, token: str | None, **headers: str) -> str:
        try:
            with connect(url + path, subprotocols=["prefect"], additional_headers=headers,  # type: ignore[list-item]
                         open_timeout=30) as socket:
                socket.send(json.dumps({"type": "auth", "token": token}))
                return str(json.loads(socket.recv(timeout=30))["type"])
        except InvalidStatus as error:
            return str(error.response.status_code)
        except ConnectionClosed as error:
            return str(error.rcvd.code if error.rcvd else None)

    assert opened("/events/in", up.key) == "auth_success"
    for path in ("/events/in", "/events/out", "/logs/out", "/task_runs/subscriptions/scheduled"):
        assert opened(path, None) == opened(path, "wrong") == "1008", path
        assert opened(path, up.key, origin="https://evil.example") == "403", path
    with pytest.raises(InvalidStatus), connect(url + "/events/in", open_timeout=30):  # as clients of old
        pass


def test_a_page_of_another_site_runs_nothing(up: Up) -> None:
    """Neither from its own address, nor by a name of its own that leads to the server."""
    pwned = up.root / "pwned"
    before, runs = deployment(up), up.flow_runs()
    evil = {"name": before["name"], "flow_id": before["flow_id"], "entrypoint": before["entrypoint"],
            "path": before["path"], "pull_steps": [{"prefect.deployments.steps.run_shell_script": {
                "script": f"touch {pwned}"}}]}
    api = up.client["PREFECT_API_URL"]
    with evil_site() as site, victim() as browser:
        for address in (api, api.replace("127.0.0.1", "localhost"), api.replace("127.0.0.1", NAME)):
            found = attack(browser, site, address, str(before["id"]), evil)
            blocked = {step: said for step, said in found.items() if not step.startswith("plain ")}
            assert set(blocked) == {"filter", "upsert", "run", "events"}
            assert set(blocked.values()) <= {"TypeError: Failed to fetch", "refused"}, found
        browser.get(api.replace("127.0.0.1", NAME).removesuffix("/api"))
        assert "The request names the host" in browser.page_source, "by that name there is not even a page"
    after = deployment(up)
    # A worker that came back since has served the deployment again, so only its times may differ.
    ours = ("pull_steps", "entrypoint", "path", "parameters", "work_pool_name")
    assert {name: after[name] for name in ours} == {name: before[name] for name in ours}
    assert up.flow_runs() == runs
    assert not pwned.exists()


def test_the_key_stays_the_same(up: Up, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in up.client:  # or the parts would use that server
        monkeypatch.delenv(name)
    made = [make_parts(Home(up.root, up.home), "127.0.0.1") for _ in range(2)]
    keys = {part.environment.get("PREFECT_API_AUTH_STRING") for parts in made for part in parts
            if part.name in ("worker", "pages")}
    for parts in made:
        for part in parts:
            if part.listener:
                part.listener.close()
    assert keys == {up.key}
    other = [part.environment for part in make_parts(Home(tmp_path, tmp_path), "127.0.0.1") if part.name == "worker"]
    assert other[0]["PREFECT_API_AUTH_STRING"] != up.key, "another project has another"
    assert up.key not in up.said()
    assert up.key not in " ".join(file.read_text(errors="replace") for file in (up.home / "service").glob("*.log"))
