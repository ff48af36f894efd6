"""Our digests are DVC's."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline.errors import UserError
from plumbline.project.digests import (
    cached_file,
    cached_inside,
    cached_listing,
    digest,
    drop_damaged,
    listing,
    restore_folder,
)
from plumbline.project.dvc_yaml import lock_entry
from plumbline.project.home import Home
from plumbline.runs.workspace import init_dvc

DVC_YAML = """
stages:
  one:
    cmd: python make.py
    deps: [make.py]
    outs: [out, single.txt]
"""
MAKE = """
from pathlib import Path
for name, text in {"b.txt": "2", "a.txt": "1", "deep/er/c.txt": "3", "umläut.txt": "4"}.items():
    file = Path("out") / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
Path("out/empty").mkdir()
Path("single.txt").write_text("line\\r\\nline\\n")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dvc")
    init_dvc(root, Home(root, root))
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "make.py").write_text(MAKE)
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=root, check=True)
    return root


def test_files_and_folders_have_the_digest_of_dvc_lock(project: Path) -> None:
    entry = lock_entry(project, "one")
    assert entry is not None
    recorded = {out["path"]: out["md5"] for out in entry["outs"]}  # type: ignore[attr-defined]
    assert {path: digest(project / path) for path in recorded} == recorded
    assert recorded["out"].endswith(".dir")


def test_byte_code_is_not_content(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1")
    before = digest(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.cpython-311.pyc").write_text("")
    (tmp_path / "b.pyc").write_text("")
    assert digest(tmp_path) == before


def test_a_folder_comes_back_from_the_cache(project: Path, tmp_path: Path) -> None:
    md5 = digest(project / "out")
    assert cached_listing(project / "cache", md5) == listing(project / "out")
    restore_folder(project / "cache", md5, tmp_path / "again")
    assert digest(tmp_path / "again") == md5


@pytest.mark.parametrize("text", ["", "{}[", '{"a": 1}', "[1]", '[{"md5": "0"}]', '[{"relpath": 1, "md5": "0"}]', "7"])
def test_a_damaged_listing_counts_as_missing(tmp_path: Path, text: str) -> None:
    md5 = "0" * 32 + ".dir"
    file = cached_file(tmp_path, md5)
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert cached_listing(tmp_path, md5) is None
    assert list(cached_inside(tmp_path, md5)) == []
    assert drop_damaged(tmp_path, [md5]) == {md5} and not file.exists()


def test_a_damaged_file_is_not_put_into_a_folder(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "cache", tmp_path / "cache")
    file = cached_file(tmp_path / "cache", digest(project / "out/b.txt"))
    file.chmod(0o644)
    file.write_text("0")
    with pytest.raises(UserError, match=f"{file}, which should become {tmp_path}/again/b.txt, is damaged"):
        restore_folder(tmp_path / "cache", digest(project / "out"), tmp_path / "again")


def test_a_folder_that_the_cache_does_not_hold(project: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not hold 0{32}\.dir, which should become .*/again\. .*`plumbline pull`"):
        restore_folder(project / "cache", "0" * 32 + ".dir", tmp_path / "again")


def test_a_folder_of_which_the_cache_does_not_hold_a_file(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "cache", tmp_path / "cache")
    md5 = digest(project / "out/deep/er/c.txt")
    cached_file(tmp_path / "cache", md5).unlink()
    with pytest.raises(UserError, match=rf"does not hold {md5}, which should become .*/again/deep/er/c\.txt\. "):
        restore_folder(tmp_path / "cache", digest(project / "out"), tmp_path / "again")
