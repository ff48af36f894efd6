"""Bytes between the cache and DVC remotes: a folder, and an S3-compatible server."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.repo import Repo

from plumbline.errors import UserError
from plumbline.project.digests import cached_file, cached_listing, digest
from plumbline.project.dvc_objects import Storage
from plumbline.project.home import Home
from testing.remotes import KEYS, add_remote

AddRemote = Callable[[Home], None]


def make_repository(root: Path) -> Home:
    home = Home(root, root / ".plumbline")
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    return home


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


@pytest.mark.parametrize("which", ["a file", "the listing"])
def test_what_is_damaged_in_the_cache_is_not_pushed(home: Home, first: Home, model: str, which: str) -> None:
    add_remote(first, "shelf", str(home.root / "shelf"))
    name = model if which == "the listing" else min((cached_listing(first.cache, model) or {}).values())
    file = cached_file(first.cache, name)
    whole = file.read_text()
    file.chmod(0o644)
    file.write_text(whole + " ")
    with pytest.raises(UserError, match=rf"1 of the files to push, such as {name}, were damaged .* `plumbline pull`"):
        Storage(first).push([model])
    assert not file.exists() and name not in on(home.root / "shelf")
    file.write_text(whole)
    Storage(first).push([model])
    assert on(home.root / "shelf") == {model, *(cached_listing(first.cache, model) or {}).values()}


def on(shelf: Path) -> set[str]:
    """The digests that a remote holds."""
    return {file.parent.name + file.name for file in shelf.glob("files/md5/*/*")}


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
    add_remote(first, "far", "ssh://ann:open-sesame@host.invalid/path")
    assert "the remote far (ssh://***@host.invalid/path)" in Storage(first).where()
    with pytest.raises(UserError, match=r"far \(ssh://\*\*\*@host.invalid/path\) does not work") as refused:
        Storage(first).push([model], "far")
    assert "open-sesame" not in str(refused.value)
    with pytest.raises(UserError, match=r"The DVC remote shelf \(.*\) does not work"):
        Storage(first).push([model])
    with pytest.raises(UserError, match="remote other"):
        Storage(first).push([model], "other")


def test_what_the_cache_lacks_is_not_pushed(home: Home, first: Home, model: str) -> None:
    add_remote(first, "shelf", str(home.root / "shelf"))
    with pytest.raises(UserError, match="lacks 1 of the files to push"):
        Storage(first).push([model, "1" * 32])
    assert not (home.root / "shelf").exists()
