"""How fast the pages answer over a project with many runs, from the real server.

    python benchmarks/many_runs.py /tmp/many 1000      # once
    python benchmarks/pages.py /tmp/many               # 2 minutes

cold: the first answer of a server that has just come up, and the time from the command to that answer, each page by a
server of its own. warm: each page 100 times, by one visitor, the 50th and the 95th of 100. Lineage, run and model pages
are asked of different runs in turn, so that nothing helps that remembers the last answer.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
REQUESTS, COLD_STARTS = 100, 3
WARM_LIMIT, HISTORY_LIMIT, COLD_LIMIT = 0.100, 0.500, 1.0
SERVE = """
import sys
from pathlib import Path
import uvicorn
from plumbline.project.home import enter, find_home
home = find_home(Path(sys.argv[1]))
enter(home)
from plumbline.web.app import create_app
uvicorn.run(create_app(home), port=int(sys.argv[2]), log_level="warning")
"""


@contextmanager
def server(project: Path) -> Iterator[tuple[str, float]]:
    """A server of its own: its address, and when it was started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(project), str(port)], cwd=project,
                               env={**os.environ, "PYTHONPATH": str(CHECKOUT)})
    try:
        yield f"http://127.0.0.1:{port}", started
    finally:
        process.terminate()
        process.wait(20)


def wait_for_port(address: str) -> None:
    port = int(address.rsplit(":", 1)[1])
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)


def get(address: str) -> tuple[float, int]:
    """Seconds until the whole answer was there, and its bytes; 0 bytes where the page does not exist."""
    begun = time.perf_counter()
    try:
        with urllib.request.urlopen(address, timeout=120) as answer:
            size = len(answer.read())
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        size = 0
    return time.perf_counter() - begun, size


def pages(base: str) -> dict[str, list[str]]:
    """Addresses of each kind of page, spread over the whole history."""
    def ask(path: str) -> dict:
        with urllib.request.urlopen(base + path, timeout=120) as answer:
            return json.load(answer)

    listed = ask("/api/runs?limit=500")
    runs = [run["id"] for run in [*listed["runs"], *ask("/api/runs?limit=500&offset=500")["runs"]]]
    versions = ask("/api/versions")["versions"]
    snapshots = list(dict.fromkeys(run["snapshot"] for run in listed["runs"] if run["snapshot"]))
    policies = list(dict.fromkeys(version["md5"].removesuffix(".dir") for version in versions))
    made = [ask(f"/api/lineage/policy/{md5}?depth=1") for md5 in policies[::max(1, len(policies) // 20)]]
    nodes = [node for one in made for node in one["nodes"]]
    lineage = [f"/lineage/{node['kind']}/{node['key']}?depth=2" for node in nodes]
    return {
        "home": ["/"], "runs": ["/runs"], "run": [f"/runs/{run}" for run in runs[::7]],
        "lineage, depth 2": list(dict.fromkeys(lineage)),
        "lineage of a snapshot": [f"/lineage/snapshot/{md5.removesuffix('.dir')}?depth=2" for md5 in snapshots],
        "whole history": ["/lineage", "/lineage?page=10", "/lineage?made=reward", "/lineage?promoted=1",
                          "/lineage?q=kl_coef"],
        "models": ["/models"], "model": [f"/models/{version['number']}" for version in versions[::5]],
        "data": ["/data"], "data set": [f"/data/{run}" for run in runs[::97]],
        "api, run": [f"/api/runs/{run}" for run in runs[::7]]}


def warm(base: str, addresses: list[str]) -> tuple[list[float], int] | None:
    get(base + addresses[0])
    times, sizes = zip(*(get(base + path) for path in islice(cycle(addresses), REQUESTS)), strict=True)
    return (sorted(times), max(sizes)) if max(sizes) else None


def cold(project: Path, path: str) -> tuple[float, float]:
    """Seconds from being up to the first answer, and from the command to it; the medians."""
    answers, wholes = [], []
    for _ in range(COLD_STARTS):
        with server(project) as (base, started):
            wait_for_port(base)
            answers.append(get(base + path)[0])
            wholes.append(time.perf_counter() - started)
    return statistics.median(answers), statistics.median(wholes)


def main(project: Path, only: str = "") -> None:
    with server(project) as (base, _):
        wait_for_port(base)
        get(base + "/")
        time.sleep(5)  # what the first refresh reads
        named = {name: addresses for name, addresses in pages(base).items() if addresses and only in name}
        print(f"{'page':24} {'p50 ms':>7} {'p95 ms':>7} {'KB':>6} {'cold s':>7} {'command to page s':>18}", flush=True)
        results = {name: warm(base, addresses) for name, addresses in named.items()}
    missed = []
    for name, found in results.items():
        if found is None:
            print(f"{name:24} is not there")
            continue
        times, size = found
        p50, p95 = times[len(times) // 2], times[int(len(times) * 0.95)]
        first, whole = cold(project, named[name][0])
        limit = HISTORY_LIMIT if name == "whole history" else WARM_LIMIT
        late = p95 > limit or first > COLD_LIMIT
        missed += [name] if late else []
        print(f"{name:24} {p50 * 1000:7.1f} {p95 * 1000:7.1f} {size / 1000:6.0f} {first:7.2f} {whole:18.1f}"
              f"{'  too slow' if late else ''}", flush=True)
    print(f"limits: p95 {WARM_LIMIT * 1000:.0f} ms warm ({HISTORY_LIMIT * 1000:.0f} ms the whole history), "
          f"{COLD_LIMIT:g} s cold: {'missed by ' + ', '.join(missed) if missed else 'kept'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), *sys.argv[2:])
