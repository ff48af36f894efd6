"""Stage `champion`: fix which policy is in use now, so that the evaluation is against that one whatever happens
meanwhile.

The files come from the shared cache by their digest. Nothing that changes by itself, such as a time, goes into
champion.json: an unchanged champion must leave identical files.
"""

import json

from tasks.stage import Stage, StageRun


def program(run: StageRun) -> None:
    """Leave champion.json, with the model beside it if there is a champion."""
    from plumbline.lineage.digests import digest, restore_folder
    from plumbline.lineage.registry import Registry
    from plumbline.lineage.waiting import patiently

    name, md5 = run.params.promote.model_name, digest(run.root / "models/policy/model")
    champion = patiently(run.home, lambda: Registry.open(run.home, name).to_compare_with(md5))
    found: dict[str, object] = {"version": None}
    if champion:
        found = {"version": champion.version, "name": name, "md5": champion.md5, "model_id": champion.model_id}
        restore_folder(run.home.cache, champion.md5, run.folder / "model")
    (run.folder / "champion.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


champion = Stage("champion", program, resolver=True)

if __name__ == "__main__":
    champion.main()
