"""Stage `base`: pretrain the model to align from scratch, or load it from a hub, a folder or a GGUF file."""

import sys

from tasks.stage import Stage, StageRun


def program(run: StageRun) -> None:
    """Write the base model, its tokenizer and chat template to models/base/model.

    Raises UserError for a model that a later stage cannot work with.
    """
    from plumbline.lm.base import load_base
    from plumbline.lm.examination import examine
    from plumbline.lm.pretrain import pretrain
    from plumbline.lm.source import context_of
    from plumbline.preferences.simulated.corpus import documents

    params, seed = run.params.base, run.params.seed
    notes: list[str] = []
    if params.source == "pretrain":
        lm, metrics = pretrain(params, seed, documents(seed), run.report, run.scratch())
    else:
        # Pre-flight has examined the model too, but `dvc repro` has no pre-flight, and a hub model may have
        # changed.
        notes = examine(params.source, run.home.root).notes
        for note in notes:
            sys.stderr.write(f"{params.source}: {note}\n")
        lm = load_base(params.source, run.home.root)
        metrics = {"parameters": sum(p.numel() for p in lm.model.parameters())}
    lm.save(run.folder / "model")
    run.finish({**metrics, "vocabulary": len(lm.tokenizer), "context": context_of(lm.model.config),
                "notes": " ".join(notes) or None})


base = Stage("base", program, retries=1, timeout_minutes=24 * 60)

if __name__ == "__main__":
    base.main()
