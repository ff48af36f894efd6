"""What a file of the project imports, found by reading it."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def imported(file: Path) -> Iterator[str]:
    """Every module that a file imports anywhere, in functions too; `from package import name` as `package.name`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: imports are absolute"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def modules_imported(file: Path) -> set[str]:
    """The project's own modules among them."""
    found = set()
    for name in imported(file):
        if file_of(name):
            found.add(name)
        elif file_of(package := name.rpartition(".")[0]):
            found.add(package)
    return found


def file_of(module: str) -> Path | None:
    """The file of one of the project's modules."""
    path = ROOT / module.replace(".", "/")
    if not module.startswith(("plumbline", "tasks", "flows")):
        return None
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def module_of(file: Path) -> str:
    """The name by which a file of the project is imported."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
