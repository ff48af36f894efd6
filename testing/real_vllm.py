"""A real vLLM server for CPUs, from the environment that `make test-vllm` installs, started and killed at will."""

import os
import signal
import subprocess
from pathlib import Path

from testing.imports import ROOT
from testing.servers import answers, free_port
from testing.waiting import eventually

PYTHON = ROOT / ".vllm/bin/python"
STARTS_WITHIN = 300


class RealVllm:
    """Serves the model in `folder`; entered, it answers."""

    def __init__(self, folder: Path):
        self.folder, self.port, self.process = folder, free_port(), None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "RealVllm":
        self.start()
        eventually(lambda: self.process.poll() is not None or answers(f"{self.url}/health"), "vLLM answers",
                   STARTS_WITHIN)
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def log(self) -> Path:
        return self.folder / "vllm.log"

    def start(self) -> None:
        """Start the processes, which answer later."""
        command = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.folder),
                   "--host", "127.0.0.1", "--port", str(self.port), "--dtype", "float32", "--max-model-len", "128",
                   "--logprobs-mode", "processed_logprobs", "--enable-scale-out", "--enforce-eager"]
        environment = {**os.environ, "VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1",
                       "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True,
                                            cwd=self.folder)

    def kill(self) -> None:
        """`kill -9` of all its processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
