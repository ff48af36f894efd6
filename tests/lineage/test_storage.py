"""Bytes between the cache and DVC remotes: a folder, and an S3-compatible server."""

import contextlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dvc.repo import Repo

from plumbline.errors import UserError
from plumbline.lineage.digests import cached_file, cached_listing, digest
from plumbline.lineage.home import Home
from plumbline.lineage.storage import Storage

AddRemote = Callable[[Home], None]
KEYS = {"access_key_id": "anyone", "secret_access_key": "anything"}


def make_repository(root: Path) -> Home:
    home = Home(root, root / ".plumbline")
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    return home


def add_remote(home: Home, name: str, url: str, **options: str) -> None:
    lines = "".join(f"    {key} = {value}\n" for key, value in options.items())
    with (home.root / ".dvc/config").open("a") as out:
        out.write(f"['remote \"{name}\"']\n    url = {url}\n{lines}")


def keep(home: Home, folder: Path) -> str:
    """Put a folder into the cache as `dvc add` would; returns its digest."""
    with contextlib.chdir(home.root):
        Repo(str(home.root), config={"cache": {"dir": str(home.cache)}}).add([str(folder)])
    return digest(folder)


@pytest.fixture
def first(home: Home) -> Home:
    return make_repository(home.root / "first")


@pytest.fixture
def model(first: Home) -> str:
    folder = first.root / "model"
    (folder / "shards").mkdir(parents=True)
    for name in ("config.json", "shards/one", "shards/two"):
        (folder / name).write_text(name * 100)
    return keep(first, folder)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an S3-compatible server with an empty bucket `kept`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(urllib.request.Request(f"{url}/kept", method="PUT"), timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        server.kill()
        server.wait()


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.slow)])
def remote(request: pytest.FixtureRequest, home: Home) -> AddRemote:
    """Adds the same remote to any repository."""
    if request.param == "folder":
        return lambda project: add_remote(project, "shelf", str(home.root / "shelf"))
    address = request.getfixturevalue("s3")
    return lambda project: add_remote(project, "bucket", "s3://kept/plumbline", endpointurl=address, **KEYS)


def test_what_was_pushed_is_fetched_on_another_machine(home: Home, first: Home, model: str, remote: AddRemote) -> None:
    remote(first)
    files, size = Storage(first).push([model])
    assert (files, size) == (4, sum(100 * len(name) for name in ("config.json", "shards/one", "shards/two"))
                             + cached_file(first.cache, model).stat().st_size)
    assert Storage(first).push([model]) == (0, 0)

    second = make_repository(home.root / "second")
    remote(second)
    storage = Storage(second)
    assert storage.lacking([model]) == {model}
    assert storage.fetch([model]) == set()
    assert storage.lacking([model]) == set()
    for file in first.cache.glob("files/md5/*/*"):
        copy = second.cache / file.relative_to(first.cache)
        assert copy.read_bytes() == file.read_bytes()
    unknown = "0" * 32
    assert storage.fetch([model, unknown]) == {unknown}


@pytest.mark.parametrize("which", ["a file", "the listing"])
def test_what_is_damaged_in_the_cache_comes_again(home: Home, first: Home, model: str, which: str) -> None:
    add_remote(first, "shelf", str(home.root / "shelf"))
    storage = Storage(first)
    storage.push([model])
    name = model if which == "the listing" else min((cached_listing(first.cache, model) or {}).values())
    file = cached_file(first.cache, name)
    file.chmod(0o644)
    file.write_text("damaged")
    assert storage.drop_damaged([model]) == {name}
    assert storage.fetch([model]) == set()
    assert storage.drop_damaged([model]) == set()


def test_a_second_remote_is_asked_for_what_the_first_lacks(home: Home, first: Home, model: str) -> None:
    add_remote(first, "empty", str(home.root / "empty"))
    add_remote(first, "shelf", str(home.root / "shelf"))
    config = first.root / ".dvc/config"
    config.write_text(config.read_text().replace("[core]", "[core]\n    remote = empty"))
    storage = Storage(first)
    assert storage.remotes == ["empty", "shelf"]
    storage.push([model], "shelf")
    shutil.rmtree(first.cache)
    assert storage.fetch([model]) == set()


def test_nowhere_to_push(first: Home, model: str) -> None:
    with pytest.raises(UserError, match="no DVC remote"):
        Storage(first).push([model])


def test_a_remote_that_does_not_answer_is_named(home: Home, first: Home, model: str) -> None:
    (home.root / "file").write_text("not a folder")
    add_remote(first, "shelf", str(home.root / "file/shelf"))
    with pytest.raises(UserError, match=r"The DVC remote shelf \(.*\) does not work"):
        Storage(first).push([model])
    with pytest.raises(UserError, match="remote other"):
        Storage(first).push([model], "other")


def test_what_the_cache_lacks_is_not_pushed(home: Home, first: Home, model: str) -> None:
    add_remote(first, "shelf", str(home.root / "shelf"))
    with pytest.raises(UserError, match="lacks 1 of the files to push"):
        Storage(first).push([model, "1" * 32])
    assert not (home.root / "shelf").exists()
