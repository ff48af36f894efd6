"""Answers to a prompt as they come, from a process that keeps the models loaded for some minutes.

The server starts the process (`python -m plumbline.feedback.live_answers`) for the first prompt and talks to it through
its standard input and output, one JSON object a line. It ends by itself when nobody has asked for a while, and when the
server is gone. One prompt is answered at a time.
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
from plumbline.feedback.contestants import Cast
from plumbline.preferences.types import Message, Prompt, prompt_json
from plumbline.project.home import Home

if TYPE_CHECKING:
    from plumbline.feedback.models import Models

IDLE_SECONDS = 300.0
"""After which the process gives its memory back."""
SILENT_SECONDS = 300.0
"""Longest time without a word: loading large models from a slow disk."""
BUSY = "Another prompt is being answered. One at a time: try again in a few seconds."


@dataclass(frozen=True)
class Piece:
    """Some more text of the answer of one part of the cast."""

    part: int
    text: str


@dataclass(frozen=True)
class Said:
    """One part of the cast has finished."""

    part: int
    text: str
    reward: float | None
    """None for an empty answer."""


class Trying:
    """The server's side."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._turn = threading.Lock()
        self._answering: _Process | None = None

    def answers(self, cast: Cast, prompt: Prompt) -> Generator[Piece | Said, None, None]:
        """The cast's answers as they come, one part after the other.

        Raises UserError when another prompt is being answered, and for what goes wrong with the models.
        """
        if not self._turn.acquire(blocking=False):
            raise UserError(BUSY)
        complete = False
        try:
            if self._answering is None or not self._answering.alive():
                self._answering = _Process(self._home)
            self._answering.tell({"cast": cast.to_json(), "prompt": prompt_json(prompt),
                                  "seed": secrets.randbelow(2**31)})
            while "end" not in (line := self._answering.hear()):
                if "error" in line:
                    complete = True
                    raise UserError(str(line["error"]))
                yield Said(**line) if "reward" in line else Piece(**line)  # type: ignore[arg-type]
            complete = True
        finally:
            if not complete:  # whoever asked has left, or the process fell silent: the rest is of no use to the next
                self.close()
            self._turn.release()

    def close(self) -> None:
        """End the process."""
        answering, self._answering = self._answering, None
        if answering:
            answering.end()


class _Process:
    """The process that answers, seen from the server."""

    def __init__(self, home: Home) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "plumbline.feedback.live_answers", str(home.cache)], cwd=home.root,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def alive(self) -> bool:
        return self._process.poll() is None

    def tell(self, request: dict[str, object]) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise UserError("The process that answers has just ended. Try again.") from None

    def hear(self) -> dict[str, object]:
        try:
            line = self._lines.get(timeout=SILENT_SECONDS)
        except queue.Empty:
            raise UserError(f"The models said nothing for {SILENT_SECONDS:g} seconds, and were stopped.") from None
        if not line:
            raise UserError("The process that answers ended without a word, perhaps for want of memory; the server's "
                            "log may say more. Try again.")
        found: dict[str, object] = json.loads(line)
        return found

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")


def serve(cache: Path, idle_seconds: float = IDLE_SECONDS) -> None:
    """Answer what comes on the standard input, until it ends or nothing comes for a while."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, whose end is noticed here
    out = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not look like an answer
    from plumbline.feedback.models import Models

    models: Models | None = None
    while select.select([sys.stdin], [], [], idle_seconds)[0]:
        line = sys.stdin.readline()
        if not line:
            return
        request = json.loads(line)
        cast = Cast.from_json(request["cast"])
        prompt = tuple(Message(turn["role"], turn["content"]) for turn in request["prompt"])
        try:
            if models is None or models.cast != cast:
                models = None  # the old ones go before the new ones come
                models = Models.load(cast, cache)
            for answer in _said(models, prompt, int(request["seed"])):
                out.write(json.dumps(answer) + "\n")
            out.write('{"end": true}\n')
        except UserError as error:
            out.write(json.dumps({"error": str(error)}) + "\n")
        except BrokenPipeError:
            return


def _said(models: "Models", prompt: Prompt, seed: int) -> Iterator[dict[str, object]]:
    for part in range(len(models.cast.parts)):
        text = ""
        for piece in models.say(part, prompt, seed):
            text += piece
            if piece:
                yield {"part": part, "text": piece}
        reward = models.rewards(prompt, [text])[0] if text else None
        yield {"part": part, "text": text, "reward": reward}


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
