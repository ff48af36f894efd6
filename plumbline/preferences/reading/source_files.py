"""The files that a source names."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NoReturn

from plumbline.errors import UserError
from plumbline.preferences.reading.results import Quarantined, shown_name

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
ARROW, STATE = ".arrow", "state.json"
ABOUT_ARROW = ("dataset_info.json", "dataset_dict.json", STATE)
TRACKED = ".dvc"
SHOWN_NAMES = 6
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


def place_of(source: str, root: Path) -> Path:
    """Return the path of the file or folder that a source names. Raises UserError if it is missing."""
    try:
        path = root / Path(source).expanduser()
    except RuntimeError:  # there is no user whose folder `~name` is: a file may be called so
        path = root / source
    if _exists(path):
        return path
    if _exists(Path(f"{path}{TRACKED}")):
        raise UserError(f"The preference source {source} is not here, but {source}{TRACKED} is, which stands "
                        "for it: `dvc pull` fetches the data.")
    raise UserError(f"The preference source {source} does not exist: looked for {path}. Name a file, a "
                    "folder, or hub:NAME, in snapshot.sources or with `plumbline data add`; relative paths "
                    "start at the project's root.")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise unreadable("file", path, error) from None


def data_files(source: str, root: Path) -> Iterator[tuple[Path, str] | Quarantined]:
    """Yield the files of a source with their names in manifest and quarantine, in the order of names.

    A link that leads out of the folder, or to nothing, is set aside. Raises UserError for a source that does
    not exist, a folder without preference files, and one that cannot be listed: what is in it would be left
    out.
    """
    path = place_of(source, root)
    if path.is_file():
        yield path, shown_name(source)
        return
    try:
        found = sorted(_walk(path))
    except OSError as error:
        raise unreadable("folder", Path(error.filename or path), error) from None
    if not found:
        others = sorted(shown_name(file.name) for file in path.iterdir())
        held = f", found {', '.join(others[:SHOWN_NAMES])}" if others else ""
        if any(name.endswith(TRACKED) for name in others):
            held += "; `dvc pull` fetches what a .dvc file stands for"
        raise UserError(f"The folder {source!r} holds no preference files: expected names that end in "
                        f"{', '.join(SUFFIXES)}, compressed or not{held}. Looked in {path}; see "
                        "snapshot.sources.")
    inside = path.resolve()
    for file in found:
        name = shown_name(f"{source.rstrip('/')}/{file.relative_to(path).as_posix()}")
        try:
            target, is_file = file.resolve(), file.is_file()
        except PermissionError as error:  # its folder lets itself be listed, and no more
            raise unreadable("file", file, error) from None
        except (OSError, RuntimeError):  # a link to itself, which older Pythons raise RuntimeError for
            yield Quarantined(name, 0, "-", "a symbolic link that leads back to itself")
            continue
        if not target.is_relative_to(inside):
            yield Quarantined(name, 0, "-", "a symbolic link that leads out of the folder; name its target "
                                            "as a source of its own if it is meant")
        elif is_file:
            yield file, name
        else:
            yield Quarantined(name, 0, "-", "no file: a symbolic link whose target is missing (`git annex "
                                            "get` or `dvc checkout` may fetch it), or a pipe")


def unreadable(what: Literal["file", "folder"], path: Path, error: OSError) -> UserError:
    """Return the error for a file or a folder of preferences that the disk does not give."""
    return UserError(f"The preference {what} {shown_name(str(path))} cannot be read: "
                     f"{error.strerror or error}.")


def _walk(folder: Path) -> Iterator[Path]:
    """Yield files of preference data, and every link to a folder, because folders behind links are not read.

    Of what `save_to_disk` of datasets leaves, the Arrow files are yielded, to be refused by name. Raises
    OSError for a folder that cannot be listed.
    """

    def stop(error: OSError) -> NoReturn:
        raise error

    for parent, folders, files in os.walk(folder, onerror=stop):
        folders[:] = [name for name in folders if not _is_hidden(name)]  # those that the walk goes into
        if any(name.endswith(ARROW) for name in files) or any(Path(parent, name,
                                                                   STATE).exists() for name in folders):
            yield from (Path(parent, name) for name in files if name.endswith(ARROW))
            files = [name for name in files if name not in ABOUT_ARROW]
        for name in folders:
            if (link := Path(parent, name)).is_symlink():
                yield link
        yield from (Path(parent, name) for name in files if is_data(name))


def is_data(name: str) -> bool:
    """True if files of this name are read; upper and lower case are the same."""
    name = name.lower()
    stem = next((name.removesuffix(end) for end in COMPRESSED if name.endswith(end)), name)
    return not _is_hidden(name) and stem.endswith(SUFFIXES)


def _is_hidden(name: str) -> bool:
    return name.startswith(".")
