"""Stage `sft`: fine-tune the base model on demonstrations. The result is also the reference of PPO's KL
penalty."""

from tasks.stage import Stage, StageRun

SAMPLES = 12


def program(run: StageRun) -> None:
    """Write the SFT policy to models/sft/model, and its answers to a few validation prompts to samples.md."""
    from plumbline.alignment.sample_page import respond, samples_page, shorter
    from plumbline.alignment.sft import train_sft
    from plumbline.lm.base import LanguageModel
    from plumbline.preferences.prepare.reader import demonstrations, prompts

    params = run.params.sft
    data = run.root / "data/prepared"
    lm = LanguageModel.load(run.root / "models/base/model")
    metrics = train_sft(lm, demonstrations(data, "train"), demonstrations(data, "validation"), params,
                        run.params.seed, run.report, run.scratch())
    lm.save(run.folder / "model")
    room = params.max_length // 2
    shown = shorter(lm, prompts(data, "validation"), params.max_length - room)[:SAMPLES]
    answers = respond(lm, shown, max_response=room, temperature=1.0, seed=run.params.seed)
    run.write("samples.md", samples_page(shown, {"sft": answers}))
    run.finish(metrics)


sft = Stage("sft", program, retries=1, timeout_minutes=24 * 60)

if __name__ == "__main__":
    sft.main()
