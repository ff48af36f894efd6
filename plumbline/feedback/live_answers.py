"""Answers to a prompt, streamed from a process that keeps the models loaded for some minutes.

The server starts the process (`python -m plumbline.feedback.live_answers`) for the first prompt and exchanges
JSON objects with it over its standard input and output, one a line. The process exits after `IDLE_SECONDS`
without a prompt, and when the server is gone. One prompt is answered at a time.
"""

import json
import os
import queue
import secrets
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.errors import UserError
from plumbline.feedback.contestants import Contestants
from plumbline.preferences.types import Prompt, prompt_from_json, prompt_json
from plumbline.project.home import Home

if TYPE_CHECKING:
    from plumbline.feedback.models import LoadedModels

IDLE_SECONDS = 300.0
"""After these seconds without a prompt the process exits and frees its memory."""
SILENT_SECONDS = 300.0
"""Longest wait for the next line: loading large models from a slow disk takes minutes."""
BUSY = "Another prompt is being answered. One at a time: try again in a few seconds."


@dataclass(frozen=True)
class AnswerPiece:
    """More text of the answer of one contestant."""

    model: int
    """Its place in `Contestants.models`."""
    text: str


@dataclass(frozen=True)
class FinishedAnswer:
    """The whole answer of one contestant."""

    model: int
    """Its place in `Contestants.models`."""
    text: str
    reward: float | None
    """None for an empty answer."""


class LiveAnswers:
    """The server's end: starts the process, and gives it one prompt at a time."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._turn = threading.Lock()
        self._process: _Process | None = None

    def answers(
        self, contestants: Contestants, prompt: Prompt
    ) -> Generator[AnswerPiece | FinishedAnswer, None, None]:
        """Yield the answers as they are sampled, one contestant after the other.

        Raises UserError if another prompt is being answered, and if the models cannot be loaded or fail.
        """
        if not self._turn.acquire(blocking=False):
            raise UserError(BUSY)
        complete = False
        try:
            if self._process is None or not self._process.alive():
                self._process = _Process(self._home)
            self._process.send({"contestants": contestants.to_json(), "prompt": prompt_json(prompt),
                                "seed": secrets.randbelow(2**31)})
            while "end" not in (line := self._process.receive()):
                if "error" in line:
                    complete = True
                    raise UserError(str(line["error"]))
                event = FinishedAnswer if "reward" in line else AnswerPiece
                yield event(**line)  # type: ignore[arg-type]
            complete = True
        finally:
            # If the reader left or the process fell silent, the rest of its lines must not reach the next
            # reader.
            if not complete:
                self.close()
            self._turn.release()

    def close(self) -> None:
        """End the process."""
        # In one step, because the server may close while a prompt is answered.
        process, self._process = self._process, None
        if process:
            process.kill()


class _Process:
    """The answering process, seen from the server."""

    def __init__(self, home: Home) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "plumbline.feedback.live_answers", str(home.cache)], cwd=home.root,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, request: dict[str, object]) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise UserError("The process that answers has just ended. Try again.") from None

    def receive(self) -> dict[str, object]:
        try:
            line = self._lines.get(timeout=SILENT_SECONDS)
        except queue.Empty:
            raise UserError(
                f"The models said nothing for {SILENT_SECONDS:g} seconds, and were stopped.") from None
        if not line:
            raise UserError("The process that answers ended without a word, perhaps for want of memory; the "
                            "server's log may say more. Try again.")
        found: dict[str, object] = json.loads(line)
        return found

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        """Put every line that the process writes into the queue, and an empty one at its end."""
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")


def serve(cache: Path, idle_seconds: float = IDLE_SECONDS) -> None:
    """Answer the requests on the standard input until it ends, or until none has come for `idle_seconds`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, whose end closes our input
    out = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not look like an answer
    from plumbline.feedback.models import LoadedModels

    models: LoadedModels | None = None
    while select.select([sys.stdin], [], [], idle_seconds)[0]:
        line = sys.stdin.readline()
        if not line:
            return
        request = json.loads(line)
        contestants = Contestants.from_json(request["contestants"])
        prompt = prompt_from_json(request["prompt"])
        try:
            if models is None or models.contestants != contestants:
                models = None  # free the old ones before the new ones are loaded
                models = LoadedModels.load(contestants, cache)
            for answer in _answers(models, prompt, int(request["seed"])):
                out.write(json.dumps(answer) + "\n")
            out.write('{"end": true}\n')
        except UserError as error:
            out.write(json.dumps({"error": str(error)}) + "\n")
        except BrokenPipeError:
            return


def _answers(models: "LoadedModels", prompt: Prompt, seed: int) -> Iterator[dict[str, object]]:
    """Yield the fields of each AnswerPiece, and of a FinishedAnswer after the last piece of each model."""
    for number in range(len(models.contestants.models)):
        text = ""
        for piece in models.stream(number, prompt, seed):
            text += piece
            if piece:
                yield {"model": number, "text": piece}
        reward = models.rewards(prompt, [text])[0] if text else None
        yield {"model": number, "text": text, "reward": reward}


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
