"""`delaudit train noise`: the law of Shredder's noise on public text, with a card beside it."""

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pathlib import Path

    from defenses.learned_noise import LearnedNoise
    from defenses.models.llm import LLM
    from defenses.noise_training import NoiseSettings
    from defenses.pipeline.corpus import Corpus
    from defenses.pipeline.training import LogFunction

OPTIONS = [
    click.option("--name", default="laplace", show_default=True, help="How the artifact is called."),
    click.option("--blocks", default=0, show_default=True, help="Noise after so many blocks; 0 is on the embeddings."),
    click.option("--snr", default=10.0, show_default=True, help="Signal-to-noise ratio of the start."),
    click.option("--weight", default=0.4, show_default=True, help="Of the mean log scale: more gives more noise."),
    click.option("--steps", default=200, show_default=True),
    click.option("--learning-rate", default=0.03, show_default=True, help="Of log scales, in nats a step."),
    click.option("--batch", default=4, show_default=True, help="Windows a step."),
]  # fmt: skip


def noise_options(command: Any) -> Any:
    """Add the options of noise training."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def noise_settings(options: dict[str, Any]) -> "NoiseSettings":
    """The settings that the options name.

    Raises:
        UserError: one is out of range.
    """
    from defenses.noise_training import NoiseSettings

    return NoiseSettings(
        blocks=options["blocks"],
        snr=options["snr"],
        weight=options["weight"],
        steps=options["steps"],
        learning_rate=options["learning_rate"],
        batch=options["batch"],
        seed=options["seed"],
    )


def train_law(
    llm: "LLM", corpus: "Corpus", settings: "NoiseSettings", options: dict[str, Any], log: "LogFunction"
) -> tuple["LearnedNoise", list[float]]:
    """Train, resuming from the work folder's checkpoint."""
    from defenses.noise_training import train_noise

    checkpoint: Path = options["work"] / f"noise-{options['name']}.safetensors"
    return train_noise(llm, corpus.windows, settings, checkpoint=checkpoint, log=log)


def write_law(law: "LearnedNoise", settings: "NoiseSettings", card: dict[str, Any], options: dict[str, Any]) -> "Path":
    """Write the artifact and its card; where they went."""
    from dataclasses import asdict

    import numpy as np

    from defenses.learned_noise import save_noise
    from defenses.pipeline.artifacts import store_for

    scale = law.scale.astype(np.float64)
    facts = {
        "kind": "noise",
        **{key: value for key, value in asdict(settings).items() if key != "checkpoint_every"},
        "scale_mean": float(scale.mean()),
        "scale_quantiles": [float(value) for value in np.quantile(scale, [0, 0.25, 0.5, 0.75, 1])],
        "location_rms": float(np.sqrt(np.mean(np.square(law.location, dtype=np.float64)))),
    }
    target = store_for(options["model"], options["out"]) / f"noise-{options['name']}.safetensors"
    save_noise(law, target, {**card, **facts})
    return target
