"""``wmtool collect``: record trajectories into Minari datasets."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import click

from wmtoolkit.cli.common import command_options


@click.command(
    epilog="Example: wmtool collect --level BabyAI-GoToLocal-v0 --episodes 1000 --workers 2 --out ./gotolocal"
)
@click.option("--level", "levels", multiple=True, metavar="ID", help="Level id, or module:Id; may be repeated.")
@click.option("--episodes", type=click.IntRange(1), help="Episodes a level [1000].")
@click.option(
    "--policy", metavar="NAME", help="mix, bot, noisy, random, tour, or an agent: best-first, sb3:FILE, ... [mix]."
)
@click.option("--share", "shares", multiple=True, metavar="NAME=X", help="Share of a behaviour (agent, too); repeated.")
@click.option("--config", metavar="NAME|FILE", help="YAML with levels, episodes, policy, shares and split.")
@click.option("--seed", type=click.IntRange(0), help="First level seed; episode i takes seed + i [0].")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("--max-steps", type=click.IntRange(1), help="Cut episodes after so many actions.")
@click.option("--time-limit", "seconds", type=float, help="Seconds after which an episode is left out [30].")
@click.option("--held-out", multiple=True, metavar="PAIR", help="Colour and object for the test split, 'red box'.")
@click.option("--checkpoint", metavar="DIR", help="World model of an agent that needs one [the packaged model].")
@click.option("--trust", is_flag=True, help="Allow --policy sb3:FILE.zip, which runs code when it is read.")
@click.option("--algo", metavar="NAME", default="ppo", help="What such a .zip was made by [ppo].")
@click.option("--out", metavar="NAME|DIR", help="Minari id or folder; several levels take a folder.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted collection.")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@click.option("--dry-run", is_flag=True, help="Print what would be collected and the time it takes.")
@command_options
def collect(**options: Any) -> dict[str, Any]:
    """Record trajectories of levels into datasets, one a level."""
    from wmtoolkit.data.recipes import collect_levels, collection_recipe

    recipe = collection_recipe(
        options.pop("config"),
        levels=options.pop("levels"),
        episodes=options.pop("episodes"),
        policy=options.pop("policy"),
        shares=options.pop("shares"),
        seed=options.pop("seed"),
        max_steps=options.pop("max_steps"),
        seconds=options.pop("seconds"),
        held_out=options.pop("held_out"),
    )
    checkpoint, trust, algo = (options.pop(name) for name in ("checkpoint", "trust", "algo"))
    saved = {"trust": trust, "algo": algo} if trust else {}
    weights = None if recipe.agent is None else _weights(checkpoint, recipe.agent)
    return collect_levels(recipe, make_agent=partial(_make_agent, checkpoint, saved), weights=weights, **options)


def _make_agent(checkpoint: str | None, saved: dict[str, Any], name: str, env: Any) -> Any:
    from wmtoolkit.agents import make_agent
    from wmtoolkit.agents.registry import needs

    model = _world_model(checkpoint) if "world_model" in needs(name) else None
    return make_agent(name, world_model=model, env=env, **saved)


@cache
def _world_model(checkpoint: str | None) -> Any:
    from wmtoolkit import AnyOrderWorldModel

    return AnyOrderWorldModel.from_pretrained(checkpoint)


def _weights(checkpoint: str | None, name: str) -> str | None:
    """sha256 of the world model's checkpoint, or of the file or folder in a name such as ``sb3:FILE``."""
    from wmtoolkit.agents.registry import needs
    from wmtoolkit.data.files import sha256
    from wmtoolkit.world.checkpoint import checkpoint_hash

    if "world_model" in needs(name):
        return checkpoint_hash(_world_model(checkpoint).path)
    path = Path(name.partition(":")[2])
    if ":" not in name or not path.exists():  # what is missing, the agent says itself
        return None
    policy = path / "policy"  # a run's
    return sha256(path) if path.is_file() else checkpoint_hash(policy if policy.is_dir() else path)
