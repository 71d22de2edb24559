"""``AnyOrderWorldModel``: one model, every conditional of a trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax

from wmtoolkit.errors import UserError
from wmtoolkit.llada2 import LLaDA2MoeConfig
from wmtoolkit.world import checkpoint, grid
from wmtoolkit.world.completion import Completion, complete
from wmtoolkit.world.config import WorldConfig
from wmtoolkit.world.infill import InfilledPlan, infill_plan
from wmtoolkit.world.likelihood import nll
from wmtoolkit.world.network import WorldNetwork, native_bf16
from wmtoolkit.world.rollout import Generators, RolloutState
from wmtoolkit.world.tokenizer import Visibility, WorldTokenizer
from wmtoolkit.world.trajectory import Trajectory


@dataclass(frozen=True)
class Prediction:
    """The imagined next step of B histories.

    Attributes:
        images: (B, 7, 7, 3) uint8; directions: (B,) int64.
        outcomes: (B,) int64 of ``Outcome``; outcome_probabilities: (B, 4) float32.
        confidence: (B, 7, 7) float32, probability of each shown cell.
        log_prob: (B,) float32, log-probability in nats of what is shown, its tokens taken as independent.
    """

    images: np.ndarray
    directions: np.ndarray
    outcomes: np.ndarray
    outcome_probabilities: np.ndarray
    confidence: np.ndarray
    log_prob: np.ndarray


class AnyOrderWorldModel:
    """Answers queries about trajectories by filling in what is masked.

    Args:
        network: front-end and LLaDA2.
        facts: what is known of the checkpoint: ``levels`` trained on, ``steps``, ``data``.
        path: folder it was read from, if any.
    """

    def __init__(self, network: WorldNetwork, facts: dict[str, Any] | None = None, path: Path | None = None) -> None:
        self.network = network.eval()
        self.facts = facts or {}
        self.path = path
        self.tokenizer = WorldTokenizer()

    @classmethod
    def create(cls, llada2: LLaDA2MoeConfig, world: WorldConfig | None = None) -> AnyOrderWorldModel:
        """An untrained model of the given architecture (its vocabulary and axes are set to fit)."""
        world = world or WorldConfig()
        return cls(WorldNetwork(WorldNetwork.fitted(llada2, world), world))

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path | None = None,
        device: torch.device | str | None = None,
        *,
        precision: str = "auto",
        clock: int | None = None,
    ) -> AnyOrderWorldModel:
        """Load a checkpoint folder; None loads the packaged compact model.

        Args:
            precision: ``float32``, ``bf16``, or ``auto``: bf16 where the processor computes it natively, which is
                about twice as fast there. Only the network's passes are affected; the weights stay float32.
            clock: in place of the checkpoint's, see ``WorldConfig``; 0 tells the network the true time.

        Raises:
            UserError: if there is none, or it is not a world model's, damaged or of another vocabulary.
        """
        if path is None:
            packaged = Path(str(files("wmtoolkit") / "checkpoints" / "compact"))
            if not packaged.is_dir():
                raise UserError(
                    "this build of wmtoolkit has no packaged checkpoint; train one (wmtool train --config quickstart "
                    "--out RUN) and pass --checkpoint RUN/checkpoint"
                )
            path = packaged
        if precision not in ("auto", "float32", "bf16"):
            raise UserError(f"precision is {precision!r}; known are auto, float32, bf16")
        network, facts = checkpoint.load(Path(path), device or "cpu")
        if clock is not None:
            network.world = replace(network.world, clock=clock)
        network.bf16_inference = precision == "bf16" or (precision == "auto" and native_bf16(network.device))
        return cls(network, facts, Path(path))

    def save_pretrained(self, path: str | Path) -> None:
        """Write a checkpoint folder, whole or not at all."""
        facts = {key: value for key, value in self.facts.items() if key not in ("format", "vocabulary", "world")}
        checkpoint.save(self.network, Path(path), facts)

    @property
    def levels(self) -> list[str]:
        """Levels the model was trained on."""
        return list(self.facts.get("levels", []))

    @property
    def forward_passes(self) -> int:
        """Passes of the network so far: a context encoded, a step imagined, a policy asked, a round of filling."""
        return self.network.forward_passes

    # Queries

    def complete(
        self,
        trajectories: Sequence[Trajectory],
        visible: Sequence[Visibility],
        *,
        steps: int = 1,
        temperature: float = 0.0,
        generator: Generators = None,
    ) -> list[Completion]:
        """THE query: fill what is not visible, everything attending to everything.

        Args:
            trajectories: B trajectories; hidden elements may hold anything.
            visible: what of each is visible, attribute by attribute.
            steps: rounds of confidence-ordered filling; 1 fills all at once.
            temperature: 0 takes the most likely token, above tokens are drawn.
            generator: one ``torch.Generator`` or a list of B.
        """
        return complete(self.network, trajectories, visible, steps=steps, temperature=temperature, generator=generator)

    def predict(
        self,
        histories: Sequence[Trajectory],
        actions: np.ndarray | Sequence[int],
        *,
        temperature: float = 0.0,
        steps: int = 1,
        generator: Generators = None,
    ) -> Prediction:
        """What happens next: a history of T actions and one more action give step T+1.

        Args:
            histories: B trajectories; actions: (B,) 0-6.
        """
        state = self.rollout_state(histories).step(actions, temperature=temperature, steps=steps, generator=generator)
        return Prediction(
            images=state.images,
            directions=state.directions,
            outcomes=state.sampled_outcomes,
            outcome_probabilities=state.outcomes,
            confidence=state.confidence,
            log_prob=state.log_prob,
        )

    def policy(self, histories: Sequence[Trajectory]) -> np.ndarray:
        """What to do: (B, 7) float32 probabilities of the next action, as the bot would act."""
        return self.rollout_state(histories).policy()

    def infer_action(
        self, trajectories: Sequence[Trajectory], steps: Sequence[int], *, bayes: bool = False
    ) -> np.ndarray:
        """Which action caused this: (B, 7) float32 probabilities of action ``steps[i]`` given all the rest.

        Args:
            bayes: by Bayes' rule, P(a | step) ~ P(step | a): how likely forward prediction holds what came after each
                of the actions, all being as likely before. Seven passes instead of one, and nearly always right where
                anything changed; what comes later is not looked at.
        """
        if bayes:
            state = self.rollout_state([item.prefix(step) for item, step in zip(trajectories, steps, strict=True)])
            after = np.stack([self.tokenizer.encode(t)[step + 2] for t, step in zip(trajectories, steps, strict=True)])
            scores = [state.log_likelihood([action] * len(after), after) for action in range(len(grid.ACTIONS))]
            return softmax(np.stack(scores, axis=-1), axis=-1).astype(np.float32)
        visible = [Visibility.full(len(trajectory)) for trajectory in trajectories]
        for seen, step in zip(visible, steps, strict=True):
            seen.actions[step] = False
        completions = self.complete(trajectories, visible)
        return np.stack([item.action_probabilities[step] for item, step in zip(completions, steps, strict=True)])

    def belief(
        self, histories: Sequence[Trajectory], visible: Sequence[Visibility], **options: Any
    ) -> list[Completion]:
        """What is behind the wall, or behind the noise: complete the masked cells of the observations so far."""
        cells_only = [
            replace(Visibility.full(len(history)), images=seen.images)
            for history, seen in zip(histories, visible, strict=True)
        ]
        return self.complete(histories, cells_only, **options)

    def infill_plan(
        self,
        histories: Sequence[Trajectory],
        horizons: Sequence[int],
        *,
        steps: int = 4,
        views: bool = True,
        temperature: float = 0.0,
        generator: Generators = None,
    ) -> list[list[InfilledPlan]]:
        """How to get there: for each history and each horizon h, h steps that lead to SUCCESS at the last.

        The model fills in actions, views and all, as the bot would act; whether the way is credible is another
        question (``rollout_state`` answers it). One forward pass a decoding step for all histories and horizons.

        Args:
            histories: B trajectories; horizons: in 1..``world.span - 1``.
            steps: rounds of confidence-ordered filling.
            views: fill in views too; without them a plan is nearly ten times cheaper.
            temperature: 0 takes the most likely token, above tokens are drawn.
            generator: one ``torch.Generator`` or a list of B x horizons.
        """
        return infill_plan(
            self.network,
            histories,
            horizons,
            steps=steps,
            views=views,
            temperature=temperature,
            generator=generator,
        )

    def nll(self, trajectories: Sequence[Trajectory], *, samples: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
        """Upper bound on the negative log-likelihood of the steps given mission and first observation, in nats.

        See ``likelihood.nll``.
        """
        return nll(self.network, trajectories, samples=samples, seed=seed)

    def rollout_state(self, histories: Sequence[Trajectory], *, memory: int | None = None) -> RolloutState:
        """A batched, cached state that can step, branch and re-order: planners live on it.

        Args:
            memory: how much of the past it is shown, see ``WorldConfig.checked_memory``.
        """
        return RolloutState.start(self.network, histories, memory=memory)

    def dream(
        self,
        missions: Sequence[str],
        *,
        generator: Generators = None,
        temperature: float = 1.0,
        memory: int | None = None,
    ) -> RolloutState:
        """States that start from a first observation drawn from the model itself, one a mission.

        ``memory``: as of ``rollout_state``.
        """
        return RolloutState.dream(self.network, missions, temperature=temperature, generator=generator, memory=memory)
