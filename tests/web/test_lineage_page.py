"""The lineage pages: every result can be put in the centre, and the whole history stays readable."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from fastapi.testclient import TestClient
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from plumbline.history.history import History
from plumbline.lineage.graph import Graph, Node
from plumbline.lineage.graph_build import build
from plumbline.preferences.batches.manifest import Batch
from plumbline.project.home import Home
from testing.hostile import TEXTS, active_in
from testing.made_up import fill, run, step
from testing.sites import Server, opens_a_page, problems_in, site_behind, visit


class Links(HTMLParser):
    """The addresses of a page, with the text of each link."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self._at: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self._at = dict(attrs).get("href")

    def handle_data(self, data: str) -> None:
        if self._at is not None:
            self.found[self._at] = self.found.get(self._at, "") + data

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._at = None


def page(client: TestClient, address: str) -> str:
    answer = client.get(address)
    assert answer.status_code == 200, answer.text
    return answer.text


def address(node: Node, **query: object) -> str:
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    return f"/lineage/{node.ref.kind}/{node.ref.key}" + (f"?{asked}" if asked else "")


@pytest.fixture
def graph(client: TestClient) -> Graph:
    """The graph that the client's pages show."""
    return site_behind(client).history.graph


def reused(graph: Graph) -> tuple[Node, str]:
    """A model with a run that reused it."""
    return next((node, id) for node in graph.nodes.values() if node.ref.kind == "sft" for id in node.runs
                if id != node.made_by)


def test_a_row_a_run_with_what_it_made(client: TestClient, graph: Graph) -> None:
    text = page(client, "/lineage")
    links = Links(text).found
    for id, row in graph.rows.items():
        assert f"/runs/{id}" in links
        for ref in row.values():
            assert f"/lineage/{ref.kind}/{ref.key}?run={id}" in links


def test_a_reused_result_is_hollow_in_the_history_and_says_who_made_it(client: TestClient, graph: Graph) -> None:
    node, user = reused(graph)
    text = page(client, "/lineage")
    for id, look in ((user, "is-reused"), (node.made_by, "is-made")):
        link = re.search(rf'<a href="{re.escape(address(node, run=id))}">(.*?)</a>', text, re.S)
        assert link is not None
        assert look in link[1]
        assert f"made by {node.made_by}" in link[1]


def test_filters_are_in_the_address(client: TestClient, graph: Graph) -> None:
    failed = [id for id, one in graph.runs.items() if one.status == "failed"]
    links = Links(page(client, "/lineage?status=failed")).found
    assert [link.removeprefix("/runs/") for link in links if link.startswith("/runs/")] == failed
    assert "No run is like that" in page(client, "/lineage?q=no-such-word")
    assert page(client, "/lineage?page=999"), "a page past the end is the last one"


def test_the_history_of_many_runs_comes_in_pages(empty: Home) -> None:
    client = visit(empty)
    with_graph(client, [run(f"20261120-{number:06}-aaaaaa") for number in range(120)])
    newest, oldest = page(client, "/lineage"), page(client, "/lineage?page=3&promoted=1")
    assert newest.count('href="/runs/20') == 50
    assert oldest.count('href="/runs/20') == 20
    assert "/lineage?promoted=1&amp;page=2" in oldest


def test_a_new_project_says_how_to_begin(empty: Home) -> None:
    assert "plumbline run" in page(visit(empty), "/lineage")


def test_everything_can_be_put_in_the_centre(client: TestClient, graph: Graph) -> None:
    for node in graph.nodes.values():
        text = page(client, address(node))
        links = Links(text).found
        for ref in (*graph.up.get(node.ref, ()), *graph.down.get(node.ref, ())):
            assert any(link.startswith(f"/lineage/{ref.kind}/{ref.key}?") for link in links), (node.ref, ref)
        assert 'aria-current="true"' in text
        assert not re.search(r"<[^>]+\s(style|on\w+)=|<script", text), "the policy of the pages forbids that"


def test_a_node_seen_by_a_run_that_reused_it_points_at_its_maker(client: TestClient, graph: Graph) -> None:
    node, user = reused(graph)
    text = page(client, address(node, run=user))
    assert re.search(r'class="ln-box stage state-made is-reused is-centre"', text)
    assert f'<a href="/runs/{node.made_by}"><title>Reused: made by run {node.made_by}</title>' in text
    assert re.search(r'class="ln-box stage state-made is-made is-centre"', page(client, address(node)))


def test_links_keep_the_depth_and_the_run(client: TestClient, graph: Graph) -> None:
    node, user = reused(graph)
    links = Links(page(client, address(node, depth=1, run=user))).found
    policy = next(ref for ref in graph.rows[user].values() if ref.kind == "reward")
    assert f"/lineage/{policy.kind}/{policy.key}?depth=1&run={user}" in links
    assert address(node, depth=3, run=user) in links


def test_a_greater_depth_shows_more(client: TestClient, graph: Graph) -> None:
    version = next(node for node in graph.nodes.values() if node.ref.kind == "version")
    near, far = (page(client, address(version, depth=depth)).count('class="ln-box') for depth in (1, 5))
    assert near < far


def test_a_gate_that_said_no_is_marked(client: TestClient, graph: Graph) -> None:
    history = site_behind(client).history
    examination = next(node.step for node in graph.nodes.values() if node.ref.kind == "examination" and node.step)
    made = history.runs[examination.made_by or ""]
    said_no = replace(examination, metrics={**examination.metrics, "passed": 0.0})
    fill(history, [replace(made, steps={**made.steps, "reward_eval": said_no})])
    node = next(node for node in history.graph.nodes.values() if node.state == "gate")
    text = page(client, address(node))
    assert "gate said no" in text
    assert "state-gate" in text
    assert "state-gate" in page(client, "/lineage")


def test_beginnings_digests_and_aliases_lead_to_the_node(client: TestClient, graph: Graph) -> None:
    node = next(node for node in graph.nodes.values() if node.ref.kind == "policy" and node.md5)
    for name in (node.ref.key[:8], f"{node.md5}.dir"):
        assert client.get(f"/lineage/policy/{name}?depth=3").headers["location"] == address(node, depth=3)
    version = next(node for node in graph.nodes.values() if "challenger" in node.aliases)
    assert client.get("/lineage/version/challenger").headers["location"] == address(version, depth=2)


@pytest.mark.parametrize("wrong", ["/lineage/policy/nothing", "/lineage/kettle/1", "/lineage/version/99999",
                                   "/lineage/batch/%3Cscript%3E", "/lineage/batch/..%2F..%2Fetc%2Fpasswd"])
def test_what_is_not_there_is_a_page_that_says_so(client: TestClient, wrong: str) -> None:
    answer = client.get(wrong)
    assert answer.status_code == 404
    assert "<script>" not in answer.text


def test_long_lists_are_cut_and_can_be_had_whole(empty: Home) -> None:
    client = visit(empty)
    runs = [run(f"20261120-{number:06}-aaaaaa", snapshot="d" * 32, steps=policy_of(number)) for number in range(30)]
    with_graph(client, runs)
    snapshot = f"/lineage/snapshot/{'d' * 32}"
    short = page(client, snapshot)
    assert "All 30" in short
    assert "21 policies" in short, "left out of the picture"
    whole = page(client, f"{snapshot}?down=policy")
    assert whole.count("<li><a href=\"/lineage/policy/") == 30


def policy_of(number: int):
    return {"ppo": step("ppo", made_by=f"20261120-{number:06}-aaaaaa", mlflow_run=f"{number:032x}",
                        inputs={"data/prepared": "p"}, outputs={"models/policy/model": f"{number:032x}.dir"})}


def with_graph(client: TestClient, runs) -> History:
    history = site_behind(client).history
    fill(history, runs)
    history.graph = build(history.runs, history.versions, {})
    return history


@pytest.mark.parametrize("text", TEXTS)
def test_hostile_texts_are_inert(empty: Home, text: str) -> None:
    client = visit(empty)
    batch = Batch("e" * 64, text, 1, {text: 1}, 1, False)
    failed = replace(step("ppo"), status="failed", reason=text, made_by=None)
    bad = run(trigger=text, settings=(text,), message=text, status="failed", batches=(batch,), steps={"ppo": failed})
    with_graph(client, [bad])
    for where in ("/lineage", f"/lineage/batch/{batch.digest}", f"/lineage/policy/{bad.id}",
                  f"/lineage/snapshot/{bad.snapshot}"):
        assert active_in(page(client, where)) == [], where


def test_the_picture_in_a_browser(server: Server, browser: Chrome) -> None:
    browser.get(f"{server.url}/lineage")
    opens_a_page(browser, browser.find_element(By.CSS_SELECTOR, ".ln-graph a .ln-mark.stage").click)
    assert "/lineage/" in browser.current_url
    other = browser.find_element(By.CSS_SELECTOR, ".ln-box:not(.is-centre) > a")
    wanted = other.get_dom_attribute("href")
    opens_a_page(browser, other.click)
    assert browser.current_url == f"{server.url}{wanted}"
    boxes = browser.find_elements(By.CSS_SELECTOR, ".ln-box rect")
    for box in boxes:
        assert box.value_of_css_property("stroke") != "none", "the style sheet was loaded"
    for text in browser.find_elements(By.CSS_SELECTOR, ".ln-box text"):
        assert text.size["width"] <= boxes[0].size["width"], f"{text.text} does not fit into its box"
    assert problems_in(browser) == []
