"""Every page in a real Chromium: nothing in the console, no dead link, readable in both themes and on a phone."""

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from plumbline.history.history import Move
from plumbline.project.home import Home
from plumbline.web.security import Keys
from testing.accessibility import contrast_problems, focus_problems, structure_problems
from testing.crawler import Crawl, crawl
from testing.hostile import MARK, TEXTS
from testing.made_up import STAGES, fill, run, step, version, workspace
from testing.sites import Server, emulate, opens_a_page, problems_in, served, site_behind, visit, wait

pytestmark = pytest.mark.slow
PHONE, DESK = 390, 1280


@pytest.fixture(scope="module")
def found(server: Server) -> Crawl:
    """All pages that links lead to, a few of each shape."""
    with httpx.Client(base_url=server.url, timeout=120) as client:
        return crawl(client)


@pytest.fixture
def screen(browser: Chrome) -> Iterator[Chrome]:
    """The browser, as a light desktop without cookies, its console empty."""
    browser.execute_cdp_cmd("Network.clearBrowserCookies", {})
    emulate(browser, False, DESK, 900)
    browser.get("about:blank")
    problems_in(browser)
    yield browser
    browser.get("about:blank")


def test_no_link_is_dead(found: Crawl) -> None:
    assert found.dead == []
    assert len(found.examples()) > 15


def test_no_link_is_dead_for_who_is_signed_in(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=120, follow_redirects=True) as client:
        client.get("/", params={"token": server.token})
        assert crawl(client).dead == []


def test_every_page_is_in_order(found: Crawl, screen: Chrome) -> None:
    """One test over all pages, so that one report says what is wrong where."""
    wrong = []
    for address in found.examples():
        if "/api/" in address or "/pictures/" in address:
            continue
        emulate(screen, False, DESK, 900)
        screen.get(address)
        wrong += [f"{address}: {problem}" for problem in [*problems_in(screen), *structure_problems(screen),
                                                         *focus_problems(screen)]]
        for dark in (False, True):
            emulate(screen, dark, DESK, 900)
            wrong += [f"{address}: contrast, {'dark' if dark else 'light'}: {problem}"
                      for problem in contrast_problems(screen, dark)]
        emulate(screen, False, PHONE, 800)
        screen.get(address)
        width = screen.execute_script("return document.documentElement.scrollWidth")
        if width > PHONE:
            wrong.append(f"{address}: {width} pixels wide on a phone")
    assert wrong == [], "\n".join(wrong)


def test_an_unknown_page_is_a_page(server: Server, screen: Chrome) -> None:
    screen.get(f"{server.url}/nowhere")
    assert "Not Found" in screen.title
    assert structure_problems(screen) == []
    assert screen.find_element(By.CSS_SELECTOR, "main a").get_attribute("href") == f"{server.url}/"


def test_the_first_tab_leads_to_the_content(server: Server, screen: Chrome) -> None:
    screen.get(f"{server.url}/runs")
    screen.switch_to.active_element.send_keys("\ue004")  # Tab
    skip = screen.switch_to.active_element
    assert skip.get_attribute("class") == "skip"
    skip.send_keys("\ue007")  # Enter
    wait(lambda: screen.current_url.endswith("#content"))
    assert screen.execute_script("return document.activeElement.id") == "content"


class TestSigningIn:
    """What the token opens, in a browser that does what browsers do."""

    def post(self, screen: Chrome, address: str, token: str) -> None:
        """Send a form from the page that is open."""
        opens_a_page(screen, lambda: screen.execute_script("""
            const form = document.createElement("form"), field = document.createElement("input");
            form.method = "post"; form.action = arguments[0];
            field.name = "token"; field.value = arguments[1];
            form.append(field); document.body.append(form); form.submit();""", address, token))
        assert screen.current_url == address

    def test_by_the_printed_address(self, server: Server, screen: Chrome) -> None:
        screen.get(f"{server.url}/runs?token={server.token}")
        assert screen.current_url == f"{server.url}/runs"
        assert "Signed in" in screen.find_element(By.TAG_NAME, "footer").text
        assert screen.execute_script("return document.cookie") == ""  # no script can read it
        assert problems_in(screen) == []

    def test_by_the_form(self, server: Server, screen: Chrome) -> None:
        screen.get(f"{server.url}/sign-in")
        assert "Reading only" in screen.find_element(By.TAG_NAME, "footer").text
        opens_a_page(screen, lambda: screen.find_element(By.ID, "token").send_keys(server.token, "\ue007"))
        assert screen.current_url == f"{server.url}/"
        assert "Signed in" in screen.find_element(By.TAG_NAME, "footer").text

    def test_our_own_forms_are_of_the_same_origin(self, server: Server, screen: Chrome) -> None:
        screen.get(f"{server.url}/sign-in?token={server.token}")
        self.post(screen, f"{server.url}/runs", Keys(server.token, "").form)
        assert "Method Not Allowed" in screen.title  # it passed the door, and there is nothing to post to behind it
        self.post(screen, f"{server.url}/nothing", "guess")
        assert "Forbidden" in screen.title

    def test_another_site_cannot_act_for_us(self, server: Server, screen: Chrome) -> None:
        screen.get(f"{server.url}/?token={server.token}")
        with other_site() as address:
            screen.get(address)
            self.post(screen, f"{server.url}/models/roll-back", "anything")
        assert "another site" in screen.find_element(By.TAG_NAME, "main").text


class other_site:
    """A page of another origin."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>other</title>")

        def log_message(self, *_: object) -> None:
            pass

    def __enter__(self) -> str:
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://localhost:{self.server.server_port}/"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_hostile_texts_run_nothing(empty: Home, screen: Chrome) -> None:
    client = visit(empty)
    bad = [run(f"20261120-1000{i:02d}-aaaaaa", trigger=text, settings=(text,), message=text, host=text,
               params={text: text}, status="failed", steps={"ppo": step("ppo", reason=text, metrics={text: 1.0})})
           for i, text in enumerate(TEXTS)]
    move = Move("2026-11-20T10:05:00+00:00", "champion", None, 1, "".join(TEXTS), TEXTS[0])
    fill(site_behind(client).history, bad, [version(1, bad[0], "champion", TEXTS[1])], [move])
    with served(client.app) as url:
        for path in ("/", "/runs", *(f"/runs/{one.id}" for one in bad)):
            screen.get(f"{url}{path}")
            assert screen.execute_script(f"return window.{MARK}") is None
            assert screen.current_url == f"{url}{path}"
            assert problems_in(screen) == []


def test_a_page_of_a_running_pipeline_follows_it(empty: Home, screen: Chrome, tmp_path: Path) -> None:
    report = '{{"stage": "ppo", "what": "", "step": {}, "total": 50, "eta_s": 9.5, "metrics": {{}}}}\n'
    folder = workspace(tmp_path / "runs/one", {"logs/ppo.progress.jsonl": report.format(12)})
    steps = {stage: step(stage) for stage in STAGES[:6]} | {"ppo": step("ppo", status="running", seconds=None)}
    going = run(status="running", ended=None, steps=steps, folder=folder)
    client = visit(empty)
    history = site_behind(client).history
    fill(history, [going])
    with served(client.app) as url:
        screen.get(url)
        assert "step 12 of 50" in screen.find_element(By.TAG_NAME, "main").text
        (folder / "logs/ppo.progress.jsonl").write_text(report.format(31))
        wait(lambda: "step 31 of 50" in screen.page_source)
        fill(history, [run()])
        wait(lambda: "is running" not in screen.page_source)
        loaded = screen.execute_script("return performance.timeOrigin")
        time.sleep(6)
        assert screen.execute_script("return performance.timeOrigin") == loaded  # nothing runs: it keeps still
    assert problems_in(screen) == []
