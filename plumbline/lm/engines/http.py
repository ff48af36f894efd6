"""Requests to a vLLM server: what each route is asked, and what to do while nobody answers.

The routes that load weights exist if the server was started with VLLM_SERVER_DEV_MODE=1, and let whoever
reaches it run code there: keep it on this machine, or on a network of your own.
"""

import http.client
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from plumbline.errors import UserError
from plumbline.lm.optim import ReportStep
from plumbline.lm.ranks.world import world

T = TypeVar("T")
Json = dict[str, object]
AWAY = {502, 503, 504}
"""HTTP statuses of a server that is starting or ending, or of a proxy before one."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
"""Seconds between two looks whether a server is back; each pause is twice the one before."""
PATIENCE = 900.0
"""Seconds for which a server may be away. A large model takes minutes to start."""
FAILURES, DEPARTURES = 3, 10
"""Times that a server may fail (HTTP 500) at the same work, and that it may go away. One whose engine has
died fails, and ends; one that lacks memory for this very work is killed, started, and killed again.
"""
LOOK_SECONDS, ANSWER_SECONDS = 10.0, 1800.0
# Straight to the server: a proxy of this environment would not know its address.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerAway(Exception):
    """Nobody answers, or an answer broke off."""


class ServerFailed(Exception):
    """The server met an error of its own (HTTP 500)."""


@dataclass(frozen=True)
class VllmServer:
    """A server at an address such as `http://127.0.0.1:8000`."""

    url: str
    report: ReportStep
    patience: float = PATIENCE

    def load(self, folder: str) -> None:
        """Let the server finish what it does, and sample with the weights in `folder` from then on."""
        self._post("/pause?mode=wait")
        try:
            self._post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": folder}})
        finally:
            self._post("/resume")

    def generate(self, ids: list[int], sampling: Mapping[str, object]) -> tuple[list[int], list[float]]:
        """Return the ids of a response, and their log-probabilities."""
        answer = self._post("/inference/v1/generate", {"token_ids": ids, "sampling_params": sampling})
        try:
            choice = answer["choices"][0]  # type: ignore[index]
            return choice["token_ids"], [one["logprob"] for one in choice["logprobs"]["content"]]
        except (KeyError, IndexError, TypeError):
            raise UserError(f"The vLLM server at {self.url} answered a request for tokens with something "
                            f"else ({str(answer)[:200]}). Expected choices with token_ids and logprobs: use "
                            "a release of vLLM that docs/scale.md names.") from None

    def version(self) -> str:
        """Return the server's version of vLLM."""
        return str(self._get("/version").get("version", "of an unknown version"))

    def patiently(self, work: Callable[[], T]) -> T:
        """Return what `work` returns. If the server goes away meanwhile, wait until it is back, and do the
        work again from its beginning.

        Raises UserError if the server stays away, or fails again and again.
        """
        failures = departures = 0
        while True:
            try:
                return work()
            except ServerAway as error:
                problem, departures = str(error), departures + 1
            except ServerFailed as error:
                problem, failures = str(error), failures + 1
            if failures == FAILURES or departures == DEPARTURES:
                raise UserError(f"At the same work the vLLM server at {self.url} failed {failures} times and "
                                f"went away {departures} times, last with {problem}. Its log says more.")
            self._wait(problem)

    def _wait(self, problem: str) -> None:
        """Return when the server answers. Raises UserError if it does not for `patience` seconds."""
        began, pause = time.monotonic(), FIRST_PAUSE
        if not world().first:  # whose reports nobody sees
            sys.stderr.write(f"Waiting for the vLLM server at {self.url} ({problem}).\n")
        while (waited := time.monotonic() - began) < self.patience:
            self.report(int(waited), int(self.patience), None, "waiting for the vLLM server")
            time.sleep(min(pause, self.patience - waited))
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                self._get("/health")
                return
            except (ServerAway, ServerFailed) as error:
                problem = str(error)
        raise UserError(f"The vLLM server at {self.url} has not answered for {self.patience:.0f} seconds "
                        f"({problem}). Start it, or put its address right in PLUMBLINE_VLLM_URL, and run "
                        "again: the training goes on from its last checkpoint. docs/scale.md says how to "
                        "start it.")

    def _get(self, route: str) -> Json:
        return self._answer(urllib.request.Request(self.url + route), LOOK_SECONDS)

    def _post(self, route: str, body: Mapping[str, object] | None = None) -> Json:
        headers = {"Content-Type": "application/json"}
        return self._answer(urllib.request.Request(
            self.url + route, json.dumps(body or {}).encode(), headers, method="POST"), ANSWER_SECONDS)

    def _answer(self, request: urllib.request.Request, seconds: float) -> Json:
        """Return what the server answers. Raises ServerAway, ServerFailed, or UserError for a request that
        it refuses."""
        try:
            status, text = _read(request, seconds)
        except (OSError, http.client.HTTPException) as error:
            raise ServerAway(f"{type(error).__name__}: {error}") from None
        if status >= 400:
            raise self._refused(request, status, " ".join(text[:500].decode("utf-8", "replace").split()))
        try:
            found = json.loads(text) if text.strip() else {}
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise UserError(f"The server at {self.url} answered {request.selector} with something else than "
                            f"a JSON object ({text[:60]!r}), so it is no vLLM server. Put its address right "
                            "in PLUMBLINE_VLLM_URL.")
        return found

    def _refused(self, request: urllib.request.Request, status: int, said: str) -> Exception:
        if status in AWAY:
            return ServerAway(f"HTTP {status}")
        if status >= 500:
            return ServerFailed(f"HTTP {status} {said}")
        if status == 404:
            return UserError(f"The server at {self.url} has no {request.selector}. Expected vLLM, started "
                             "with VLLM_SERVER_DEV_MODE=1 so that weights can be handed over: see "
                             "docs/scale.md.")
        return UserError(f"The vLLM server at {self.url} refuses {request.selector} (HTTP {status}): {said}")


def _read(request: urllib.request.Request, seconds: float) -> tuple[int, bytes]:
    """Return the status of an answer, of an error, too, and its body."""
    try:
        with OPENER.open(request, timeout=seconds) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
