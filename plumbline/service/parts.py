"""The parts of the service: what each is, where it listens, and how it says that it is well."""

import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from plumbline.errors import UserError
from plumbline.project.flow_processes import stop_flows
from plumbline.project.home import API_KEY, API_URL, Home
from plumbline.project.service_lock import api_key
from plumbline.service.process import MARK

LOCAL, EVERYWHERE = "127.0.0.1", ("0.0.0.0", "::")
PORTS = {"prefect": 4200, "pages": 4280, "mlflow": 5000}
SERVE = (sys.executable, "-m", "plumbline.service.serve_socket")
SLOW_LOOPS = ("LATE_RUNS", "PAUSE_EXPIRATIONS", "CLEANUP_RECONCILER", "FOREMAN", "CANCELLATION_CLEANUP",
              "SCHEDULER_RECENT_DEPLOYMENTS", "REPOSSESSOR")
"""Prefect goes through its tables for these every few seconds, a percent of a core; here a minute is soon
enough.
"""


@dataclass(frozen=True)
class ServicePart:
    """A process of the service that is kept running."""

    name: str
    title: str
    """Its name for people."""
    command: tuple[str, ...]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    address: str | None = None
    """The address that a person opens."""
    health: str | None = None
    """Answers 200 when all is well."""
    listener: socket.socket | None = None
    """The socket that it serves on."""
    after: str | None = None
    """The part that must be well before it starts."""
    start_seconds: float = 120.0
    """Seconds that it may take to be well."""
    end_seconds: float = 10.0
    """Seconds that it may take to end when asked to."""
    before_end: Callable[[], None] | None = None
    """What is done before it is asked to."""

    @property
    def port(self) -> int | None:
        """Port of `address`."""
        return urlsplit(self.address).port if self.address else None


def make_parts(home: Home, host: str) -> list[ServicePart]:
    """Return all parts, without servers that the user runs elsewhere (PREFECT_API_URL,
    MLFLOW_TRACKING_URI).
    """
    found, url = [], os.environ.get(API_URL)
    environment = {"PREFECT_HOME": str(home.folder / "prefect")}
    if not url:
        prefect = _prefect(home)
        found.append(prefect)
        url = f"{prefect.address}api"
        environment[API_KEY] = api_key(home.folder)
    environment[API_URL] = url
    found.append(_worker(home, environment, "prefect" if len(found) else None))
    found.append(_pages(home, environment, host))
    if not home.tracking_uri.startswith(("http:", "https:")):
        found.append(_mlflow(home))
    return found


def common(home: Home) -> dict[str, str]:
    """Return the variables that all parts share."""
    return {**home.environment(), MARK: str(home.folder), "PYTHONUNBUFFERED": "1"}


def prefect_url(parts: list[ServicePart]) -> str | None:
    """Return the API address of the Prefect server among the parts, if there is one."""
    return next((f"{part.address}api" for part in parts if part.name == "prefect"), None)


def _prefect(home: Home) -> ServicePart:
    listener, address = _listen("prefect")
    settings = {
        "PREFECT_HOME": str(home.folder / "prefect"),
        "PREFECT_UI_API_URL": f"{address}api",
        # Whoever may talk to it can run code: its clients have the key, and no other site's page may ask.
        "PREFECT_SERVER_API_AUTH_STRING": api_key(home.folder),
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": own_origins(listener.getsockname()[1]),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # Leases kept in memory would be lost with the process: a run would lose its slot, and be cancelled.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT__SERVER_FINAL": "1",
        # How often Prefect looks for events that did not come.
        "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT60S",
        **{f"PREFECT_SERVER_SERVICES_{name}_LOOP_SECONDS": "60" for name in SLOW_LOOPS},
    }
    command = (*SERVE, str(listener.fileno()), "plumbline.service.prefect_server:create_app()")
    return ServicePart("prefect", "Prefect", command, _log(home, "prefect"), settings, address,
                       f"{address}api/health", listener)


def own_origins(port: int) -> str:
    """Return the origins of a local server's pages, by both names of this machine, separated by a comma."""
    return f"http://127.0.0.1:{port},http://localhost:{port}"


def _worker(home: Home, environment: Mapping[str, str], after: str | None) -> ServicePart:
    command = (sys.executable, "-m", "flows.deployments")
    return ServicePart("worker", "worker", command, _log(home, "worker"),
                       {**environment, "PYTHONPATH": str(home.root)}, after=after, end_seconds=30,
                       before_end=lambda: stop_flows(home))


def _pages(home: Home, environment: Mapping[str, str], host: str) -> ServicePart:
    listener, address = _listen("pages", host)
    command = (sys.executable, "-m", "plumbline", "ui", "--host", host, "--socket", str(listener.fileno()))
    return ServicePart("pages", "Plumbline", command, _log(home, "pages"), environment, address,
                       f"{address}api/health", listener)


def _mlflow(home: Home) -> ServicePart:
    listener, address = _listen("mlflow")
    # What `mlflow server` sets for its worker: started directly, one process of 200 MB and not two of 480.
    settings = {
        "_MLFLOW_SERVER_FILE_STORE": home.tracking_uri,
        "_MLFLOW_SERVER_REGISTRY_STORE": home.tracking_uri,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": home.artifacts.as_uri(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = (*SERVE, str(listener.fileno()), "plumbline.service.mlflow_server:create_app()")
    return ServicePart("mlflow", "MLflow", command, _log(home, "mlflow"), settings, address,
                       f"{address}health", listener)


def _log(home: Home, name: str) -> Path:
    return home.folder / "service" / f"{name}.log"


def _listen(name: str, host: str = LOCAL) -> tuple[socket.socket, str]:
    """Return a listening socket on the part's usual port, or else on a free one, and its address on this
    machine.

    Raises UserError for a host that is not this machine.
    """
    problem: OSError | None = None
    for port in (PORTS[name], 0):
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(256)  # two may bind the same port at the same moment; only one may listen
        except OSError as error:
            listener.close()
            problem = error
            continue
        shown = f"[{host}]" if ":" in host else host
        if host in EVERYWHERE:
            shown = LOCAL
        return listener, f"http://{shown}:{listener.getsockname()[1]}/"
    raise UserError(f"Cannot listen on {host}: {problem}. Give an address of this machine, or 0.0.0.0 for "
                    "all of them.")
