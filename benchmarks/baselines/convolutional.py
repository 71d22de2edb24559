"""Small convolutional rivals that see one view: a one-step predictor, and behaviour cloning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from wmtoolkit.agents.protocol import Observation
from wmtoolkit.errors import UserError
from wmtoolkit.evaluation.prediction import StepPredictions
from wmtoolkit.training.config import LossConfig
from wmtoolkit.world import grid, windows
from wmtoolkit.world.tokenizer import ATTRIBUTES, FIRST_WORD, WorldTokenizer
from wmtoolkit.world.trajectory import Outcome

_TOKENIZER = WorldTokenizer()
_CHUNK = 256


class ViewEncoder(nn.Module):
    """A view, heading, mission and, optionally, an action as a map of features (B, width, 7, 7).

    Cells are sums of learned rows for object, colour, state and place; mission (the mean of its words' rows), heading
    and action are added to every cell; four residual 3x3 convolutions follow.
    """

    def __init__(self, width: int, actions: int = 0) -> None:
        super().__init__()
        self.cells = nn.ModuleList(nn.Embedding(size, width) for size in ATTRIBUTES)
        self.places = nn.Parameter(torch.randn(grid.VIEW, grid.VIEW, width) * 0.02)
        self.words = nn.Embedding(_TOKENIZER.vocab_size, width, padding_idx=_TOKENIZER.pad)
        self.headings = nn.Embedding(len(grid.DIRECTIONS), width)
        self.actions = nn.Embedding(actions, width) if actions else None
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(4))
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(4))

    def forward(
        self, images: torch.Tensor, headings: torch.Tensor, missions: torch.Tensor, actions: torch.Tensor | None = None
    ) -> torch.Tensor:
        """images: (B, 7, 7, 3); headings, actions: (B,); missions: (B, W) word ids with padding, all long."""
        features = sum(table(images[..., channel]) for channel, table in enumerate(self.cells)) + self.places
        words = self.words(missions).sum(1) / (missions != _TOKENIZER.pad).sum(1, keepdim=True).clamp(min=1)
        whole = words + self.headings(headings)
        if self.actions is not None:
            assert actions is not None
            whole = whole + self.actions(actions)
        features = (features + whole[:, None, None]).movedim(-1, 1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            features = features + F.gelu(layer(norm(features)))
        return features


class StepNetwork(nn.Module):
    """Next view, heading and outcome from one view and the action: no memory."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.encoder = ViewEncoder(width, len(grid.ACTIONS))
        self.cells = nn.Conv2d(width, int(np.prod(ATTRIBUTES)), 1)
        self.outcome = nn.Linear(width * grid.CELLS, len(Outcome))
        self.heading = nn.Linear(width * grid.CELLS, len(grid.DIRECTIONS))

    def forward(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits of the cells (B, 49, 264), the outcome (B, 4) and the heading (B, 4)."""
        features = self.encoder(inputs["images"], inputs["headings"], inputs["missions"], inputs["actions"])
        flat = features.flatten(1)
        return self.cells(features).flatten(2).movedim(1, 2), self.outcome(flat), self.heading(flat)


class CloningNetwork(nn.Module):
    """The bot's action from one view: behaviour cloning."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.encoder = ViewEncoder(width)
        self.action = nn.Linear(width * grid.CELLS, len(grid.ACTIONS))

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Logits (B, 7)."""
        features = self.encoder(inputs["images"], inputs["headings"], inputs["missions"])
        return self.action(features.flatten(1))


def inputs_before(frames: windows.Frames, target: np.ndarray) -> dict[str, torch.Tensor]:
    """What both networks read of the steps that led to frames ``target`` (N,)."""
    episode = np.searchsorted(frames.offsets, target, side="right") - 1
    arrays = {
        "images": frames.images[target - 1],
        "headings": frames.directions[target - 1],
        "missions": frames.missions[episode][:, FIRST_WORD:],
        "actions": frames.actions[target],
    }
    return {name: torch.as_tensor(np.asarray(value).astype(np.int64)) for name, value in arrays.items()}


def step_loss(
    network: StepNetwork, frames: windows.Frames, target: np.ndarray, weights: LossConfig
) -> tuple[torch.Tensor, float]:
    """Weighted sum of cross-entropies in nats of the frames ``target`` (N,), and the sum of weights."""
    cells, outcome, heading = network(inputs_before(frames, target))
    images = np.asarray(frames.images[target]).astype(np.int64)
    wanted = np.ravel_multi_index(tuple(np.moveaxis(images, -1, 0)), ATTRIBUTES).reshape(len(target), -1)

    def loss(logits: torch.Tensor, array: np.ndarray) -> torch.Tensor:
        return F.cross_entropy(logits, torch.as_tensor(np.asarray(array).astype(np.int64)), reduction="sum")

    total = weights.cell * loss(cells.flatten(0, 1), wanted.ravel())
    total = total + weights.outcome * loss(outcome, frames.outcomes[target])
    total = total + weights.direction * loss(heading, frames.directions[target])
    return total, len(target) * (weights.cell * grid.CELLS + weights.outcome + weights.direction)


def cloning_loss(network: CloningNetwork, frames: windows.Frames, target: np.ndarray) -> tuple[torch.Tensor, float]:
    """Sum of cross-entropies of the actions that led to frames ``target`` (N,), and their number."""
    inputs = inputs_before(frames, target)
    return F.cross_entropy(network(inputs), inputs["actions"], reduction="sum"), float(len(target))


@torch.inference_mode()
def predicted(network: StepNetwork, frames: windows.Frames, target: np.ndarray) -> StepPredictions:
    """What the one-step predictor says of the steps to frames ``target`` (N,)."""
    attributes = np.indices(ATTRIBUTES).reshape(3, -1).T
    ids, seen = _TOKENIZER.cell_ids(attributes), torch.as_tensor(attributes[:, 0] != grid.UNSEEN)
    parts = []
    for low in range(0, len(target), _CHUNK):
        part = target[low : low + _CHUNK]
        cells, outcome, heading = (logits.log_softmax(-1) for logits in network(inputs_before(frames, part)))
        images = np.asarray(frames.images[part]).astype(np.int64)
        wanted = np.ravel_multi_index(tuple(np.moveaxis(images, -1, 0)), ATTRIBUTES).reshape(len(part), -1)
        truth = [
            np.zeros((len(part), 1), np.float32),  # it says nothing of actions
            *(
                scores.gather(-1, torch.as_tensor(np.asarray(array[part]).astype(np.int64))[:, None]).numpy()
                for scores, array in ((outcome, frames.outcomes), (heading, frames.directions))
            ),
            cells.gather(-1, torch.as_tensor(wanted)[..., None])[..., 0].numpy(),
        ]
        best = cells.max(-1)
        found = (ids[best.indices.numpy()], heading.argmax(-1).numpy(), outcome.argmax(-1).numpy())
        visible = cells[..., seen].logsumexp(-1).numpy()
        parts.append((*found, best.values.exp().numpy(), np.concatenate(truth, axis=1), visible))
    return StepPredictions(*(np.concatenate(column) for column in zip(*parts, strict=True)))


@torch.inference_mode()
def cloned_actions(network: CloningNetwork, frames: windows.Frames, target: np.ndarray) -> np.ndarray:
    """Probabilities (N, 7) of the actions that led to frames ``target`` (N,)."""
    parts = [
        network(inputs_before(frames, target[low : low + _CHUNK])).softmax(-1).numpy()
        for low in range(0, len(target), _CHUNK)
    ]
    return np.concatenate(parts)


def save_cloning(network: CloningNetwork, path: Path) -> None:
    """Write a network's weights as safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), path)


def load_cloning(path: Path) -> CloningNetwork:
    """Read ``save_cloning``'s file.

    Raises:
        UserError: it is not there, or no such network's.
    """
    network = CloningNetwork()
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{path} is no network of behaviour cloning ({' '.join(str(error).split())[:120]})") from None
    return network.eval()


class CloningAgent:
    """Acts as a ``CloningNetwork`` would, on what it sees now.

    Args:
        temperature: 0 takes the most probable action, 1 samples.
        seed: of the sampling.
    """

    def __init__(self, network: CloningNetwork, temperature: float = 0.0, seed: int = 0) -> None:
        self.diagnostics: dict[str, Any] = {}
        self._network, self._temperature = network, temperature
        self._rng = np.random.default_rng(seed)

    def reset(self, seed: int | None = None) -> None:
        if seed is not None:
            self._rng = np.random.default_rng(seed)

    @torch.inference_mode()
    def act(self, observation: Observation) -> int:
        mission = _TOKENIZER.mission_block(str(observation["mission"]), "bot")[FIRST_WORD:]
        inputs = {
            "images": torch.as_tensor(np.asarray(observation["image"]).astype(np.int64))[None],
            "headings": torch.tensor([int(observation["direction"])]),
            "missions": torch.as_tensor(mission)[None],
        }
        logits = self._network(inputs)[0]
        if self._temperature == 0:
            return int(logits.argmax())
        chances = (logits / self._temperature).double().softmax(-1).numpy()
        return int(self._rng.choice(len(chances), p=chances / chances.sum()))
