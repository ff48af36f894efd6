"""A stand-in for a vLLM server: the same routes over HTTP, answered by a real model through our own sampler."""

import json
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import torch
from transformers import AutoModelForCausalLM

from plumbline.lm.engines.vllm import VllmEngine, seed_of
from plumbline.lm.sampling import sample_with, uniforms

VERSION = "0.32.0"


class FakeVllm:
    """Serves the model in a folder; entered, it listens. What it does wrong is set by its fields.

    Like vLLM it draws by seeds of its own; a seed in `rows` draws by the random numbers there instead, which makes it
    our own sampler.
    """

    def __init__(self, folder: Path, dtype=torch.float32):
        self.folder, self.dtype, self.rows = folder, dtype, {}
        self.port, self.loads, self.asked, self.killed, self.dying = 0, [], 0, 0, threading.Lock()
        self.dev_mode, self.going, self.coming_back = True, None, None
        self.ignores_reload = False
        self.raw = False
        """True if it gives the log-probabilities at temperature 1, as vLLM does by default."""
        self.off = 0.0
        """Nats by which its log-probabilities are wrong."""
        self.kill_at = None
        """The request for tokens at which the process is killed, counted over all."""
        self.dies_at_tokens = False
        """True if each request for tokens kills the process."""
        self.comes_back_after = 0.2
        """Seconds from being killed to being started again; None never."""
        self.fails = 0
        """Requests for tokens that meet an error of the server's own."""

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.comes_back_after = None
        if self.going:
            self.going.join()
        if self.coming_back:
            self.coming_back.cancel()
            self.coming_back.join()
        self.stop()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        """Start the process: with the weights of its folder, whatever was loaded before."""
        self.model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=self.dtype).eval()
        self.lock, self.connections, self.paused, self.dead = threading.Lock(), set(), False, False
        handler = type("Handler", (_Handler,), {"fake": self})
        self.http = _Server(("127.0.0.1", self.port), handler)
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        self.http.shutdown()
        self.http.server_close()

    def kill(self):
        """Break all connections off in the middle, as `kill -9` does."""
        with self.dying:  # once in a life: two that load a model at once would leave transformers' patches behind
            if self.dead:
                return
            self.dead = True
        self.killed += 1
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.going = threading.Thread(target=self._gone, daemon=True)
        self.going.start()

    def _gone(self):
        self.stop()
        if self.comes_back_after is not None:
            self.coming_back = threading.Timer(self.comes_back_after, self.start)
            self.coming_back.start()

    def load(self, folder):
        self.loads.append(folder)
        if self.ignores_reload:
            return
        new = AutoModelForCausalLM.from_pretrained(folder, dtype=self.dtype).eval()
        if new.config.tie_word_embeddings:  # vLLM leaves the output layer as it was
            head = self.model.get_output_embeddings().weight.detach().clone()
            new.set_output_embeddings(torch.nn.Linear(*reversed(head.shape), bias=False))
            new.get_output_embeddings().weight.data = head
        self.model = new

    def generate(self, ids, asked):
        """Return ids and log-probabilities of a response."""
        longest, temperature = asked["max_tokens"], asked["temperature"]
        row = self.rows.get(asked["seed"])
        if row is None:
            row = uniforms(1, longest, torch.Generator().manual_seed(asked["seed"]))[0]
        with self.lock:
            response, = sample_with(self.model, [ids], row[None, :longest], stop=asked["stop_token_ids"],
                                    temperature=temperature)
            found = list(response.log_probs)
            if self.raw:
                with torch.no_grad():
                    logits = self.model(torch.tensor([ids + response.ids])).logits[0, len(ids) - 1:-1].float()
                found = logits.log_softmax(-1)[range(len(response.ids)), response.ids].tolist()
        return response.ids, [value + self.off for value in found]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    """Connections that may wait; an engine makes as many at once."""


class _Handler(BaseHTTPRequestHandler):
    def setup(self):
        super().setup()
        self.fake.connections.add(self.request)

    def finish(self):
        self.fake.connections.discard(self.request)
        with suppress(OSError, ValueError):  # killed meanwhile
            super().finish()

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer({"/health": {}, "/version": {"version": VERSION}}.get(self.path))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}")
        route, fake = urlsplit(self.path).path, self.fake
        if route == "/inference/v1/generate":
            fake.asked += 1
            if fake.dies_at_tokens or fake.kill_at == fake.asked:
                fake.kill()
                return
            if fake.fails:
                fake.fails -= 1
                self.answer({"error": "EngineDeadError"}, 500)
                return
            assert not fake.paused
            ids, log_probs = fake.generate(body["token_ids"], body["sampling_params"])
            self.answer({"choices": [{"token_ids": ids, "finish_reason": "stop",
                                      "logprobs": {"content": [{"logprob": value} for value in log_probs]}}]})
        elif fake.dev_mode and route in ("/pause", "/resume", "/collective_rpc"):
            if route == "/collective_rpc":
                assert body["method"] == "reload_weights" and fake.paused
                fake.load(body["kwargs"]["weights_path"])
            else:
                fake.paused = route == "/pause"
            self.answer({})
        else:
            self.answer(None)

    def answer(self, found, status=200):
        text = json.dumps(found if found is not None else {"detail": "Not Found"}).encode()
        with suppress(OSError):  # killed meanwhile
            self.send_response(status if found is not None else 404)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)


class DrawsAsOurs:
    """A vLLM engine whose fake server is told the random numbers of each row before it is asked for it."""

    def __init__(self, engine: VllmEngine, fake: FakeVllm):
        self.engine, self.fake = engine, fake

    def sample(self, model, prompts, uniform_BR, temperature, batch_size=None):
        self.fake.rows.update({seed_of(row): row for row in uniform_BR})
        return self.engine.sample(model, prompts, uniform_BR, temperature, batch_size)
