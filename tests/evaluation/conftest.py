"""Models to measure: a stand-in that answers with known probabilities, and real ones with options on and off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
import torch

from tests.conftest import TINY
from wmtoolkit import AnyOrderWorldModel, Trajectory
from wmtoolkit.llada2 import LLaDA2MoeConfig
from wmtoolkit.world import grid
from wmtoolkit.world.config import WorldConfig
from wmtoolkit.world.tokenizer import ATTRIBUTES
from wmtoolkit.world.trajectory import Outcome


def favour(size: int, favourite: int, chance: float) -> np.ndarray:
    """(size,) probabilities: ``chance`` for one value, the rest in equal parts."""
    return np.where(np.arange(size) == favourite, chance, (1 - chance) / (size - 1))


CHANCES: Mapping[str, np.ndarray] = MappingProxyType(
    {
        "actions": favour(7, grid.FORWARD, 0.4),
        "outcomes": favour(4, Outcome.CONTINUE, 0.7),
        "directions": favour(4, 0, 0.4),
        "objects": favour(11, grid.EMPTY, 0.5),
        "colors": favour(6, 0, 0.5),
        "states": favour(4, 0, 0.7),
    }
)
"""What ``constant`` answers: forward, nothing ends, heading right, and a cell's attributes each on its own."""


def stand_in(
    *answers: Mapping[str, np.ndarray], which: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> AnyOrderWorldModel:
    """A model with known probabilities of each kind of token; what is left out is equally likely.

    Args:
        answers: (size,) probabilities by kind, as in ``CHANCES``.
        which: index (B,) of the answer to sequences of ids (B, S); always the first if not given.
    """
    model = AnyOrderWorldModel.create(LLaDA2MoeConfig(**TINY))
    network, tokens = model.network, model.tokenizer
    first = {kind: getattr(tokens, kind).start for kind in ("actions", "outcomes", "directions")}
    looks = tokens.cells.start  # the rows behind those of the plain tokens, one for "?" among each kind
    first |= {"objects": looks, "colors": looks + ATTRIBUTES[0] + 1, "states": looks + sum(ATTRIBUTES[:2]) + 2}
    with torch.no_grad():
        network.output_rows.zero_()
        for number, answer in enumerate(answers):
            for kind, chances in answer.items():
                rows = slice(first[kind], first[kind] + len(chances))
                network.output_rows[rows, number] = torch.as_tensor(np.log(chances), dtype=torch.float32)

    def forward(tokens: dict, *_: object, keep: int | None = None) -> torch.Tensor:
        ids = tokens["ids"]
        number = ids[:, 0] * 0 if which is None else which(ids)
        states = torch.nn.functional.one_hot(number, network.output_rows.shape[1]).float()
        return states[:, None].expand(-1, keep or ids.shape[1], -1)

    network.forward = forward
    return model


@pytest.fixture(scope="session")
def constant() -> AnyOrderWorldModel:
    """A model that answers with ``CHANCES``, whatever it is asked."""
    return stand_in(CHANCES)


OPTIONS = {
    "plain": WorldConfig(),
    "expectation": WorldConfig(mission_features=True, expectation=True),
}


@pytest.fixture(scope="session", params=OPTIONS)
def either_model(request: pytest.FixtureRequest) -> AnyOrderWorldModel:
    """Two layers with random weights, without and with what memory expects and the mission added to every token."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AnyOrderWorldModel.create(LLaDA2MoeConfig(**TINY, initializer_range=0.2), OPTIONS[request.param])


def walk(actions: list[int], images: list[np.ndarray], directions: list[int], **options: object) -> Trajectory:
    """An episode with given views and headings."""
    trajectory = Trajectory.start({"mission": "go to the red ball", "image": images[0], "direction": directions[0]})
    for action, image, direction in zip(actions, images[1:], directions[1:], strict=True):
        trajectory = trajectory.extended(action, {"image": image, "direction": direction})
    return replace(trajectory, **options)


def view(**cells: tuple[int, int, int]) -> np.ndarray:
    """All unseen but the agent's own empty cell and the named cells, e.g. c3r5=(6, 0, 0)."""
    image = np.zeros((7, 7, 3), np.uint8)
    image[grid.AGENT_CELL] = (grid.EMPTY, 0, 0)
    for name, cell in cells.items():
        image[int(name[1]), int(name[3])] = cell
    return image


def ended(episode: Trajectory, length: int) -> Trajectory:
    """Its beginning, as if it had ended in success."""
    last = np.arange(length) == length - 1
    return replace(episode.prefix(length), terminations=last, rewards=last.astype(np.float32))
