"""Stage `base`: the model to align: pretrained here from scratch, or loaded from a hub, a folder, a GGUF file."""

from tasks.stage import Stage, StageRun


def program(run: StageRun) -> None:
    """Leave the base model, with its tokenizer and chat template, in models/base/model."""
    from plumbline.lm.base import load_base
    from plumbline.lm.pretrain import pretrain
    from plumbline.preferences.simulated.corpus import documents

    params, seed = run.params.base, run.params.seed
    if params.source == "pretrain":
        lm, metrics = pretrain(params, seed, documents(seed), run.report)
    else:
        lm = load_base(params.source, run.home.root)
        metrics = {"parameters": sum(p.numel() for p in lm.model.parameters())}
    lm.save(run.folder / "model")
    run.finish(metrics | {"vocabulary": len(lm.tokenizer), "context": lm.model.config.max_position_embeddings})


base = Stage("base", program, retries=1, timeout_minutes=24 * 60)

if __name__ == "__main__":
    base.main()
