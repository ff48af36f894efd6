"""Imports go one way: flows -> tasks -> plumbline; the learning knows nothing of the machinery around it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MACHINERY = {"prefect", "mlflow", "dvc", "fastapi"}
LEARNING = ("preferences", "lm", "alignment", "evaluation")


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(file: Path) -> Iterator[str]:
    """Every module that a file imports anywhere, in functions too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: imports are absolute"
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def roots(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(file)}


@pytest.mark.parametrize("file", [file for room in LEARNING for file in modules(f"plumbline/{room}")],
                         ids=lambda file: str(file.relative_to(ROOT)))
def test_the_learning_knows_no_machinery(file: Path) -> None:
    assert not roots(file) & MACHINERY
    assert not any(name.startswith(("plumbline.lineage", "plumbline.cli", "plumbline.web")) for name in imported(file))


@pytest.mark.parametrize("file", modules("plumbline"), ids=lambda file: str(file.relative_to(ROOT)))
def test_the_library_does_not_import_flows_or_tasks(file: Path) -> None:
    if file.name not in ("cli.py", "run_command.py"):  # the command line is the entry to everything
        assert not roots(file) & {"flows", "tasks"}


@pytest.mark.parametrize("file", modules("tasks"), ids=lambda file: str(file.relative_to(ROOT)))
def test_tasks_do_not_import_flows(file: Path) -> None:
    assert "flows" not in roots(file)


@pytest.mark.parametrize("file", [file for room in ("flows", "tasks", "plumbline") for file in modules(room)],
                         ids=lambda file: str(file.relative_to(ROOT)))
def test_files_have_one_subject(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500
    assert ast.get_docstring(ast.parse(text)), "a module says what it is"


def test_the_flow_is_short() -> None:
    assert len((ROOT / "flows/retrain.py").read_text(encoding="utf-8").splitlines()) < 150
