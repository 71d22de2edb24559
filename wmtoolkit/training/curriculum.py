"""The curriculum of scheduled masking: from few and easy masks to the mixture that is wanted in the end."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wmtoolkit.training.config import MaskingConfig


def curriculum(masking: MaskingConfig, progress: float) -> tuple[dict[str, float], float]:
    """Shares of the strategies in block-causal batches, adding up to 1, and the scale of their ratios.

    Args:
        progress: of the training, 0 to 1.
    """
    along = min(1.0, progress / masking.curriculum) if masking.curriculum else 1.0

    def normalized(shares: dict[str, float]) -> dict[str, float]:
        return {name: share / sum(shares.values()) for name, share in shares.items()}

    first, last = normalized(masking.first_mixture), normalized(masking.mixture)
    names = sorted({*first, *last})
    mixture = {name: (1 - along) * first.get(name, 0.0) + along * last.get(name, 0.0) for name in names}
    return mixture, (1 - along) * masking.first_ratio + along


def plot_curriculum(masking: MaskingConfig, path: Path) -> None:
    """Draw the curriculum as a picture (SVG or PNG by the name): shares stacked, the scale of the ratios as a line."""
    from matplotlib.figure import Figure

    progress = np.linspace(0, 1, 101)
    drawn = [curriculum(masking, float(value)) for value in progress]
    names = list(drawn[0][0])
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.stackplot(progress, [[mixture[name] for mixture, _ in drawn] for name in names], labels=names, alpha=0.8)
    axes.plot(progress, [ratio for _, ratio in drawn], color="black", linewidth=2, label="scale of ratios")
    axes.set(xlabel="progress of the training", ylabel="share", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(path)
