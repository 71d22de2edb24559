"""``wmtool train-policy``: train an SB3 policy in imagination, in the real level, or by Dyna."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wmtoolkit.cli.common import check_out, command_options


@click.command(
    epilog="Example: wmtool train-policy --algo ppo --imagined --level BabyAI-GoToRedBallGrey-v0 --clone 20000 "
    "--steps 200000 --out runs/ppo"
)
@click.option("--algo", metavar="NAME", help="ppo, recurrent-ppo, dqn or maskable-ppo. [default: ppo]")
@click.option("--level", metavar="ID", help="Level id, or module:Id. [default: BabyAI-GoToLocal-v0]")
@click.option("--checkpoint", metavar="DIR", help="World model. [default: the packaged one]")
@click.option("--imagined", "mode", flag_value="imagined", help="Train in imagination. [default]")
@click.option("--real", "mode", flag_value="real", help="Train in the level itself.")
@click.option("--dyna", "mode", flag_value="dyna", help="Alternate real episodes, model updates and imagination.")
@click.option("--steps", type=click.IntRange(1), help="Steps over all lanes. [default: 200000]")
@click.option("--envs", "num_envs", type=click.IntRange(1), help="Lanes, imagined in one forward pass. [default: 16]")
@click.option("--evaluate-every", "every", type=click.IntRange(1), help="Steps between checkpoints. [default: 16384]")
@click.option("--episodes", type=click.IntRange(1), help="Real episodes of each measurement. [default: 64]")
@click.option("--clone", type=click.IntRange(0), metavar="STEPS", help="Imitate the world model's policy first.")
@click.option("--temperature", type=click.FloatRange(0), help="Of imagination; 0: the likeliest. [default: 1]")
@click.option(
    "--start",
    type=click.Choice(["level", "look_around"]),
    help="Imagination begins with one real view, or with a look around too. [default: level]",
)
@click.option("--max-steps", type=click.IntRange(1), help="Limit of an episode. [default: the level's]")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Setting of the algorithm or of Dyna; repeated."
)
@click.option("--seed", type=click.IntRange(0), help="Of everything. [default: 0]")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/policy"), show_default=True, metavar="DIR")
@click.option("--zip", "write_zip", is_flag=True, help="Write SB3's own policy.zip too; reading one runs code.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in --out, with its own settings.")
@click.option("--overwrite", is_flag=True, help="Replace what is in --out.")
@click.option("--dry-run", is_flag=True, help="Print the resolved settings and how long it would take.")
@command_options
def train_policy(
    settings: tuple[str, ...],
    out: Path,
    write_zip: bool,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
    **options: Any,
) -> dict[str, Any]:
    """Train a Stable-Baselines3 policy, measured in the real level all along; --resume goes on exactly.

    The run folder holds the newest policy as safetensors and JSON, checkpoints, metrics.jsonl, TensorBoard's files and
    results.json. Play it with: wmtool rollout --agent sb3:RUN. Needs pip install 'wmtoolkit[sb3]'.

    \b
    With --dyna, each round begins with real episodes and some steps of the world model's training; --set takes
    real_episodes, model_steps, rate, scratch, horizon, and what cuts imagination: outcome_confidence, frame_log_prob,
    orders. All real episodes of training are counted; those of the measurements are not.
    """
    from wmtoolkit.agents.policy_plan import prepare
    from wmtoolkit.agents.sb3_training import cost
    from wmtoolkit.agents.sb3_training import train_policy as run

    changes = {name: value for name, value in options.items() if value is not None}
    if not dry_run:
        check_out(out, resume=resume, overwrite=overwrite)
    plan = prepare(out, changes, settings, resume=resume)
    if dry_run:
        return cost(plan, out if resume else None)
    return run(plan, out, resume=resume, overwrite=overwrite, write_zip=write_zip)
