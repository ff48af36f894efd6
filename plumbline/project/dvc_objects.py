"""The bytes behind digests: what the cache of this machine holds, and the DVC remotes that it shares them
with.

Digests are DVC's: of a file, or of a folder (`<md5>.dir`), which stands for its listing and for every file in
it. Plain `dvc push` in the checkout knows its own dvc.lock and `data/batches` only; this moves what any run
holds.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.errors import UserError
from plumbline.project.digests import FOLDER, cached_file, cached_inside, drop_damaged
from plumbline.project.home import Home
from plumbline.project.masking import masked

if TYPE_CHECKING:
    from dvc.data_cloud import Remote
    from dvc_data.hashfile.db import HashFileDB

NO_REMOTE = ("this checkout has no DVC remote (`dvc remote add -d NAME URL`, where URL is a folder, "
             "s3://bucket/path, ssh://host/path, ...)")


class Storage:
    """The cache of a project, and the remotes that its checkout names."""

    def __init__(self, home: Home) -> None:
        from dvc.config import ConfigError
        from dvc.exceptions import NotDvcRepoError
        from dvc.repo import Repo

        logging.getLogger("dvc").setLevel(logging.CRITICAL)
        self.cache = home.cache
        # Bytes have nothing to do with git, which may not be there.
        settings = {"core": {"no_scm": True}, "cache": {"dir": str(home.cache)}}
        try:
            self._repo = Repo(str(home.root), config=settings)
        except NotDvcRepoError:
            raise UserError(f"{home.root} is no DVC repository, although Plumbline's checkout is one: "
                            f"expected {home.root / '.dvc'}. Run `git checkout .dvc` there.") from None
        except ConfigError as error:
            raise UserError(f"DVC's settings in {home.root / '.dvc'} cannot be read: {error}.") from None

    @property
    def remotes(self) -> list[str]:
        """Names of the remotes, the default one first."""
        names = list(self._repo.config["remote"])
        default = self._repo.config["core"].get("remote")
        return sorted(names, key=lambda name: name != default)

    def lacking(self, digests: Iterable[str]) -> set[str]:
        """Return the digests that are missing from the cache, of these files, folders and the files in the
        folders.

        If a folder's listing is missing, only the listing is reported, because its files are unknown.
        """
        return {name for digest in digests for name in (digest, *cached_inside(self.cache, digest))
                if not cached_file(self.cache, name).exists()}

    def drop_damaged(self, digests: Iterable[str]) -> set[str]:
        """Delete cached files whose bytes do not have the digest that names them. Returns their digests."""
        return drop_damaged(self.cache, digests)

    def fetch(self, digests: Iterable[str]) -> set[str]:
        """Fetch missing bytes from the remotes, the default one first.

        Returns the digests that no remote has. Raises UserError for a remote that does not answer.
        """
        wanted = set(digests)
        lacking = self.lacking(wanted)
        for name in self.remotes:
            # Twice, because a folder's files are known when its listing has come.
            for _ in range(2):
                if lacking:
                    self._fetch_from(name, lacking)
                    lacking = self.lacking(wanted)
        return lacking

    def push(self, digests: Iterable[str], remote: str | None = None) -> tuple[int, int]:
        """Copy files and folders to a remote.

        Returns the numbers of files and of bytes that were new to the remote. A folder's listing goes last,
        because DVC takes a listing for a promise that its files are there. Raises UserError without a remote,
        for a remote that does not answer, and for what the cache lacks or holds damaged.
        """
        name = remote or next(iter(self.remotes), None)
        if name is None:
            raise UserError(f"There is nowhere to push to: {NO_REMOTE}.")
        wanted = list(digests)
        lacking = self.lacking(wanted)
        if lacking:
            raise UserError(f"The cache {self.cache} lacks {len(lacking)} of the files to push, such as "
                            f"{min(lacking)}. Run `plumbline pull` first, or push single runs.")
        listings = {digest for digest in wanted if digest.endswith(FOLDER)}
        files = {digest for digest in wanted if digest not in listings}
        files |= {file for listing in listings for file in cached_inside(self.cache, listing)}
        done = [self._push_to(name, group) for group in (files, listings)]
        return sum(count for count, _ in done), sum(size for _, size in done)

    def where(self) -> str:
        """Return the places that are searched, for a message."""
        settings = self._repo.config["remote"]
        remotes = ", ".join(f"the remote {name} ({masked(settings[name]['url'])})" for name in self.remotes)
        return f"the cache {self.cache}, {remotes or NO_REMOTE}"

    def _fetch_from(self, name: str, digests: set[str]) -> None:
        with self._answering(name) as remote:
            local = self._repo.cache.local
            self._copy(remote.odb, local, digests - set(local.oids_exist(digests)), verify=True)

    def _push_to(self, name: str, digests: set[str]) -> tuple[int, int]:
        with self._answering(name) as remote:
            new = digests - set(remote.odb.oids_exist(digests))
            damaged = self.drop_damaged(new)
            if damaged:
                raise UserError(f"{len(damaged)} of the files to push, such as {min(damaged)}, were damaged "
                                f"in the cache {self.cache}: their bytes were not those that name them. "
                                "They were deleted, and none of them was pushed. Push again for the rest; "
                                "`plumbline pull` brings back what a remote has, and a run makes the rest "
                                "again.")
            copied = self._copy(self._repo.cache.local, remote.odb, new, verify=False)
        return len(copied), sum(cached_file(self.cache, digest).stat().st_size for digest in copied)

    def _copy(self, source: "HashFileDB", target: "HashFileDB", new: set[str], verify: bool) -> list[str]:
        """Copy the bytes of digests that are `new` to `target`, as far as `source` has them. Returns them."""
        there = sorted(source.oids_exist(new)) if new else []
        failed: list[BaseException] = []
        if there:
            target.add([source.oid_to_path(digest) for digest in there], source.fs, there, verify=verify,
                       check_exists=False, on_error=_collect(failed))
        if failed:
            raise failed[0]
        return there

    @contextmanager
    def _answering(self, name: str) -> "Iterator[Remote]":
        try:
            yield self._repo.cloud.get_remote(name)
        except UserError:
            raise
        except Exception as error:  # each kind of remote has exceptions of its own
            about = masked(self._repo.config["remote"].get(name, {}).get("url", "unknown"))
            said = masked(" ".join(f"{type(error).__name__}: {error}".split()))[:500]
            raise UserError(f"The DVC remote {name} ({about}) does not work: {said}. See `dvc remote list` "
                            "and its credentials in `.dvc/config.local`; s3:// needs `pip install "
                            "'plumbline[s3]'`.") from error


def _collect(failed: list[BaseException]) -> Callable[[str, BaseException], None]:
    def note(_digest: str, error: BaseException) -> None:
        failed.append(error)

    return note


def tracked_batches(home: Home) -> dict[Path, str]:
    """Return the digests of the batches that DVC tracks, by their folders, which need not be on this
    machine.
    """
    from ruamel.yaml import YAML

    found = {}
    for file in sorted(home.preferences.arrived.glob("*.dvc")):
        for out in YAML(typ="safe").load(file.read_text(encoding="utf-8"))["outs"]:
            found[file.parent / out["path"]] = str(out["md5"])
    return found
