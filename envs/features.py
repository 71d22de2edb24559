"""A feature extractor for symbolic views and missions, for Stable-Baselines3 policies."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import nn

from wmtoolkit.envs.missions import PADDING
from wmtoolkit.errors import UserError
from wmtoolkit.world import grid

try:
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
except ImportError:
    raise UserError("Stable-Baselines3 is not installed: pip install 'wmtoolkit[sb3]'") from None


class MissionGridExtractor(BaseFeaturesExtractor):
    """Reads a 7x7 symbolic view under the light of the mission (FiLM, Perez et al. 2018).

    Each cell is the sum of an object, a colour and a state embedding; a GRU reads the mission and scales and shifts
    the channels of two convolutions. Use it as
    ``policy_kwargs=dict(features_extractor_class=MissionGridExtractor)`` with ``MultiInputPolicy``.

    Args:
        observation_space: that of ``TokenizedMission`` or ``make_sb3_vec_env``.
        features_dim: size of the output.
        channels: of the convolutions and embeddings.

    Raises:
        UserError: for another space, such as one of pictures, whose ids would arrive divided by 255.
    """

    def __init__(self, observation_space: spaces.Space, features_dim: int = 128, channels: int = 32) -> None:
        super().__init__(observation_space, features_dim)
        image = observation_space["image"] if isinstance(observation_space, spaces.Dict) else None
        if image is None or image.shape != (grid.CELLS * 3,):
            raise UserError("MissionGridExtractor reads what TokenizedMission or make_sb3_vec_env gives")
        sizes = (len(grid.OBJECTS), len(grid.COLORS), len(grid.STATES))
        self.cells = nn.ModuleList(nn.Embedding(size, channels) for size in sizes)
        self.words = nn.Embedding(len(grid.WORDS) + 1, channels, padding_idx=PADDING)
        self.reader = nn.GRU(channels, 2 * channels, batch_first=True)
        self.convolutions = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.films = nn.ModuleList(nn.Linear(2 * channels, 2 * channels) for _ in self.convolutions)
        self.head = nn.Sequential(nn.Linear(channels * grid.CELLS + len(grid.DIRECTIONS), features_dim), nn.ReLU())

    def forward(self, observations: dict[str, torch.Tensor]) -> torch.Tensor:
        """(B, features_dim) features; ids arrive as floats, the direction one-hot (B, 4) or (B, 1, 4)."""
        image = observations["image"].long().view(-1, grid.VIEW, grid.VIEW, 3)
        view = sum(embedding(image[..., channel]) for channel, embedding in enumerate(self.cells)).permute(0, 3, 1, 2)
        mission = self._read(observations["mission"].long())
        for convolution, film in zip(self.convolutions, self.films, strict=True):
            scale, shift = film(mission)[..., None, None].chunk(2, dim=1)
            view = view + torch.relu(convolution(view) * (1 + scale) + shift)
        return self.head(torch.cat([view.flatten(1), observations["direction"].flatten(1)], dim=1))

    def _read(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, 2·channels): the GRU's state after the last word of each mission."""
        lengths = (ids != PADDING).sum(1).clamp(min=1)
        states, _ = self.reader(self.words(ids[:, : int(lengths.max())]))
        return states[torch.arange(len(ids)), lengths - 1]
