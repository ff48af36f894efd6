"""Where things are kept: the project's root, and its home `.plumbline/` with the cache, the MLflow store and
Prefect's state.

Everything is an absolute path, because stages run in workspaces of their own and the tools' defaults follow
the current folder. `PLUMBLINE_HOME` moves the home; `MLFLOW_TRACKING_URI`, `PREFECT_HOME` and
`PREFECT_API_URL` are left as the user set them.
"""

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from plumbline.errors import UserError
from plumbline.preferences.batches.folders import Folders
from plumbline.project.service_lock import api_key, api_url
from plumbline.whole_file import write_whole

HOME = "PLUMBLINE_HOME"
API_URL, API_KEY = "PREFECT_API_URL", "PREFECT_API_AUTH_STRING"
"""Variables that name Prefect's server and hold the key that it asks for."""
NO_PROXY = ("no_proxy", "NO_PROXY")
"""Variables that list the hosts for which no proxy is asked; some programs read the one, some the other."""
THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
RECORD_FILE = "run.json"
COMPARISON = "comparison"
"""The folder of a run, and of its record in MLflow, with the table and the picture of its candidates."""

CHECKOUTS = "checkouts"
"""The folder of a home that says which checkouts use it, a file each."""

STARTUP_SECONDS = "60"
"""Prefect's server creates its database on the first start; on a busy machine its default of 20 s is
short.
"""

SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": STARTUP_SECONDS,
}


@dataclass(frozen=True)
class Home:
    """The folders of one project."""

    root: Path
    """The checkout: dvc.yaml, params.yaml, the code."""
    folder: Path
    """`.plumbline/` in the root, or what PLUMBLINE_HOME names."""

    @property
    def runs(self) -> Path:
        """Workspaces, one a run."""
        return self.root / "runs"

    @property
    def preferences(self) -> Folders:
        """The preference data: what arrived, and what can be made from it again."""
        return Folders(self.root, self.folder)

    @property
    def cache(self) -> Path:
        """The DVC cache that the checkout and all runs share."""
        return self.folder / "cache"

    @property
    def scratch(self) -> Path:
        """Resume checkpoints of unfinished stages."""
        return self.folder / "scratch"

    @property
    def waiting(self) -> Path:
        """Records that MLflow's store has not taken yet."""
        return self.folder / "waiting"

    @property
    def artifacts(self) -> Path:
        """MLflow's files."""
        return self.folder / "artifacts"

    @property
    def tracking_uri(self) -> str:
        """MLflow's store: the user's, or a SQLite file in the home."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.folder / 'mlflow.db'}"

    def environment(self) -> dict[str, str]:
        """Return variables for this process and its children: no telemetry, all state in the home, and no
        proxy before our own servers.
        """
        # MLflow looks up `models:/ID` in the store that the variable names, not in the client's.
        wanted = {**SETTINGS, **_without_proxy(), HOME: str(self.folder),
                  "MLFLOW_TRACKING_URI": self.tracking_uri}
        url = api_url(self.folder)  # None unless a `plumbline up` is running
        if not os.environ.get("PREFECT_HOME") and not os.environ.get(API_URL):
            wanted["PREFECT_HOME"] = str(self.folder / "prefect")
            if url:
                wanted[API_URL] = url
        if url and wanted.get(API_URL, os.environ.get(API_URL)) == url:
            wanted[API_KEY] = api_key(self.folder)
        return wanted


def enter(home: Home) -> None:
    """Make this process and its children use the project's home.

    Call it before the first import of Prefect.
    """
    # Prefect's server does not make the folder of its database.
    for folder in (home.folder, home.folder / "prefect"):
        folder.mkdir(parents=True, exist_ok=True)
    _note_checkout(home)
    os.environ.update(home.environment())


def other_checkouts(home: Home) -> dict[Path, Path]:
    """Return the other checkouts that use a home and still exist, with the files that say so."""
    found = {}
    for file in sorted((home.folder / CHECKOUTS).glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # deleted, or damaged
            said = json.loads(file.read_text(encoding="utf-8"))
            root = Path(said["root"])
            # A copy of a home says of which home it is one.
            if Path(said["home"]) == home.folder and root != home.root and (root / "dvc.yaml").is_file():
                found[root] = file
    return found


def _note_checkout(home: Home) -> None:
    """Write down that this checkout uses the home: what it needs there, gc of another one must not delete."""
    text = json.dumps({"root": str(home.root), "home": str(home.folder)})
    file = home.folder / CHECKOUTS / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if not file.exists():
        with contextlib.suppress(OSError):  # where nothing can be written, nothing of this checkout is kept
            file.parent.mkdir(exist_ok=True)
            write_whole(file, text + "\n")


def _without_proxy() -> dict[str, str]:
    """Return NO_PROXY with this machine's names: a proxy would look for our servers where the proxy runs."""
    lower, upper = (os.environ.get(name, "") for name in NO_PROXY)
    found = {}
    for name, given in zip(NO_PROXY, (lower or upper, upper or lower), strict=True):
        hosts = [host.strip() for host in given.split(",") if host.strip()]
        # The star, for all hosts, counts only where it stands alone.
        found[name] = "*" if hosts == ["*"] else ",".join(dict.fromkeys([*hosts, *THIS_MACHINE]))
    return found


def find_home(start: Path | None = None) -> Home:
    """Return the project that contains `start`, or the current folder.

    Raises UserError outside of a project.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        is_project = (folder / "dvc.yaml").is_file() and (folder / "params.yaml").is_file()
        if is_project and not (folder / RECORD_FILE).is_file():  # a run's workspace looks like a project too
            named = os.environ.get(HOME)
            return Home(folder, Path(named).expanduser().resolve() if named else folder / ".plumbline")
    raise UserError(f"{start} is not inside a Plumbline project: no folder from there upward holds dvc.yaml "
                    "and params.yaml. Change to your checkout and try again.")
