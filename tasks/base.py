"""Stage `base`: the model to align: pretrained here from scratch, or loaded from a hub, a folder, a GGUF file."""

import sys

from tasks.stage import Stage, StageRun


def program(run: StageRun) -> None:
    """Leave the base model, with its tokenizer and chat template, in models/base/model.

    Raises UserError for a model that a later stage could not work with.
    """
    from plumbline.lm.base import load_base
    from plumbline.lm.examination import examine
    from plumbline.lm.pretrain import pretrain
    from plumbline.lm.source import context_of
    from plumbline.preferences.simulated.corpus import documents

    params, seed = run.params.base, run.params.seed
    notes: list[str] = []
    if params.source == "pretrain":
        lm, metrics = pretrain(params, seed, documents(seed), run.report)
    else:
        # The pre-flight check has done this, but `dvc repro` makes none, and a model on a hub may have changed since.
        found = examine(params.source, run.home.root)
        for note in found.notes:
            sys.stderr.write(f"{params.source}: {note}\n")
        lm = load_base(params.source, run.home.root)
        metrics, notes = {"parameters": sum(p.numel() for p in lm.model.parameters())}, found.notes
    lm.save(run.folder / "model")
    run.finish({**metrics, "vocabulary": len(lm.tokenizer), "context": context_of(lm.model.config),
                "notes": " ".join(notes) or None})


base = Stage("base", program, retries=1, timeout_minutes=24 * 60)

if __name__ == "__main__":
    base.main()
