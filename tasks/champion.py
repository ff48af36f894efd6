"""Stage `champion`: pin which policy is in use now, so that the evaluation is against that one.

The files come from the shared cache by their digest. Nothing that changes by itself, such as a time, goes
into champion.json: an unchanged champion must leave identical files.
"""

import json
from typing import TYPE_CHECKING

from tasks.stage import Stage, StageRun

if TYPE_CHECKING:
    from plumbline.tracking.registry import PolicyVersion


def program(run: StageRun) -> None:
    """Leave champion.json, with the model beside it if there is a champion."""
    from plumbline.project.digests import digest, restore_folder
    from plumbline.tracking.outbox import patiently

    name, md5 = run.params.promote.model_name, digest(run.root / "models/policy/model")
    champion = patiently(run.home, lambda: _to_compare_with(run, md5))
    found: dict[str, object] = {"version": None}
    if champion:
        found = {"version": champion.version, "name": name, "md5": champion.md5,
                 "model_id": champion.model_id}
        restore_folder(run.home.cache, champion.md5, run.folder / "model")
    (run.folder / "champion.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _to_compare_with(run: StageRun, md5: str) -> "PolicyVersion | None":
    """Return the champion that the policy must beat; that of now, if the bytes of an earlier one are freed.

    None if that is the policy itself. Raises UserError if the bytes of that of now are nowhere either.
    """
    from plumbline.errors import UserError
    from plumbline.project.dvc_objects import Storage
    from plumbline.tracking.registry import Registry

    registry = Registry.open(run.home, run.params.promote.model_name)
    chosen = registry.to_compare_with(md5)
    if chosen is None:
        return None
    storage = Storage(run.home)
    if not storage.fetch([chosen.md5]):
        return chosen
    now = registry.champion()
    if now is None or now.md5 == md5:
        return None
    if gone := storage.fetch([now.md5]):
        raise UserError(f"The champion is version {now.version} of {registry.name}, and {len(gone)} of its "
                        f"files, such as {min(gone)}, are gone. Looked in {storage.where()}. `plumbline "
                        "push` on the machine that made it brings them to a remote; then go on with "
                        "`plumbline retry`.")
    return now


champion = Stage("champion", program, resolver=True)

if __name__ == "__main__":
    champion.main()
