"""The rooms of the house and who may import whom: read this table from the ground up."""

import ast
from pathlib import Path

import pytest

from testing.imports import ROOT, imported, module_of, modules_imported

HOUSE = {
    "ground": "errors, whole files, statistics: imported by everybody",
    "config": "the parameters",
    "preferences": "types, formats, batches, snapshots, prepared data, the report",
    "lm": "language models, chat templates, sampling",
    "alignment": "SFT, reward model, PPO",
    "evaluation": "examinations, judges, gates, reports",
    "project": "where files are; locks, digests, processes, the record of a run",
    "compute": "on how many processes and machines a stage runs, and what it needs there",
    "notify": "events and webhooks",
    "tracking": "MLflow: what is written, what waits, the registry, receipts",
    "retraining": "when the next run is due",
    "runs": "one run: workspace, stages, end, retry, restore",
    "storage": "push, pull, gc",
    "lineage": "what was made from what",
    "history": "MLflow read back",
    "data": "what arrived, by which door, what changed",
    "feedback": "what people say of pairs of answers",
    "web": "the pages",
    "service": "`plumbline up`",
    "tasks": "a file a stage",
    "flows": "in what order, and when",
    "commands": "the command line",
}
"""A room imports from itself and from rooms above it in this table."""
INSIDE = {
    "preferences": ["ground", "simulated", "reading", "batches", "versions", "report", "prepare"],
    "web": ["drawing", "views", "ground", "pages"],
}
"""The same within a room, `ground` being its single files."""
LEARNING = {"preferences", "lm", "alignment", "evaluation"}
MACHINERY = {"prefect", "mlflow", "dvc", "fastapi"}
"""What the learning knows nothing of."""
LARGEST_ROOM = 15
ALLOWED = {
    ("plumbline.__main__", "plumbline.commands.main"),  # an entry
    ("plumbline.web.app", "plumbline.web.pages"),  # finds them by themselves
}
FILES = {module_of(file): file
         for top in ("plumbline", "tasks", "flows") for file in sorted((ROOT / top).rglob("*.py"))}


def room_of(module: str, inside: str | None = None) -> str:
    """The room that a module is in: of the house, or of the room `inside` of it."""
    parts = module.split(".")
    if parts[0] != "plumbline":
        return parts[0]
    below = parts[2:] if inside else parts[1:]
    folder = ROOT.joinpath("plumbline", *([inside] if inside else []), *below[:1])
    return below[0] if below and folder.is_dir() else "ground"


def imports_of(module: str) -> set[str]:
    """The modules of the project that a module imports, in functions too."""
    return modules_imported(FILES[module])


def upward(order: list[str], inside: str | None = None) -> list[tuple[str, str]]:
    """The imports that run against the order of rooms."""
    home = f"plumbline.{inside}." if inside else ""
    return [(module, name) for module in FILES if module.startswith(home)
            for name in sorted(imports_of(module)) if name.startswith(home)
            and order.index(room_of(name, inside)) > order.index(room_of(module, inside))
            and (module, name) not in ALLOWED]


def test_rooms_import_one_way() -> None:
    assert not upward(list(HOUSE))


@pytest.mark.parametrize("room", INSIDE)
def test_rooms_within_a_room_import_one_way(room: str) -> None:
    assert not upward(INSIDE[room], room)


def test_every_room_stands_in_the_table() -> None:
    assert {room_of(module) for module in FILES} == set(HOUSE)


def test_no_room_is_crowded() -> None:
    rooms = {file.parent for file in FILES.values()}
    crowded = {str(room.relative_to(ROOT)): count for room in rooms
               if (count := len([file for file in room.glob("*.py") if file.name != "__init__.py"])) > LARGEST_ROOM}
    assert not crowded


def test_the_learning_knows_no_machinery() -> None:
    found = {module for module, file in FILES.items() if room_of(module) in LEARNING
             and {name.split(".")[0] for name in imported(file)} & MACHINERY}
    assert not found


def test_no_circle_but_the_one_of_tasks() -> None:
    """`tasks.stage` imports Prefect's half of itself only where a flow runs: a stage's process never does."""
    assert circles() == [{"tasks.as_prefect_task", "tasks.stage"}]


def circles() -> list[set[str]]:
    """Groups of modules that import each other, directly or not."""
    reached = {module: imports_of(module) - {module} for module in FILES}
    changed = True
    while changed:
        wider = {module: names.union(*(reached[name] for name in names)) for module, names in reached.items()}
        changed = wider != reached
        reached = wider
    groups = {frozenset(name for name in names if module in reached[name])
              for module, names in reached.items() if module in names}
    return sorted(map(set, groups), key=sorted)


def test_files_have_one_subject() -> None:
    for module, file in FILES.items():
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 500, module
        assert ast.get_docstring(ast.parse(text)), f"{module} does not say what it is"


def test_the_flow_is_short() -> None:
    assert len(Path(ROOT, "flows/retrain.py").read_text(encoding="utf-8").splitlines()) < 150


def test_no_class_name_twice() -> None:
    names: dict[str, list[str]] = {}
    for module, file in FILES.items():
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                names.setdefault(node.name, []).append(module)
    assert not {name: modules for name, modules in names.items() if len(modules) > 1}


def test_what_tests_share_is_in_testing() -> None:
    """No test module imports another, and nothing that is delivered imports what is there for tests."""
    tests = {file: {name.split(".")[0] for name in imported(file)} for file in sorted((ROOT / "tests").rglob("*.py"))}
    siblings = {file.stem for file in tests}
    assert not [file for file, names in tests.items() if names & (siblings | {"tests"})]
    delivered = {module: {name.split(".")[0] for name in imported(file)} for module, file in FILES.items()}
    assert not [module for module, names in delivered.items() if "testing" in names]
