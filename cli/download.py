"""``wmtool download``: a LLaDA2 checkpoint from the Hugging Face hub."""

from __future__ import annotations

from typing import Any

import click

from wmtoolkit.cli.common import command_options


@click.command(epilog="Example: wmtool download --repo-id inclusionAI/LLaDA2.0-mini --local-dir LLaDA2.0-mini")
@click.option(
    "--repo-id",
    default="inclusionAI/LLaDA2.0-mini",
    show_default=True,
    metavar="OWNER/NAME",
    help="Repository on the hub.",
)
@click.option("--local-dir", metavar="DIR", help="Folder to fill. [default: the repository's name]")
@click.option("--revision", help="Branch, tag or commit; a commit is reproducible. [default: main]")
@click.option("--seed", type=int, help="Accepted as everywhere; nothing here is random.")
@command_options
def download(repo_id: str, local_dir: str | None, revision: str | None, seed: int | None) -> dict[str, Any]:
    """Fetch a LLaDA2 checkpoint from the Hugging Face hub and check it.

    LLaDA2.0-mini has 33 GB, LLaDA2.0-flash 206 GB: the free disk space is checked first. Run the same command again
    after an interruption, and it goes on where it stopped. Weights stored as pickles are never fetched. At the end
    every key and shape is checked against config.json.

    Then load the folder with LLaDA2MoeForCausalLM.from_pretrained, or convert it for dFactory: wmtool convert.

    \b
    Private and gated repositories  log in once: hf auth login
    No connection                   copy the folder from a machine that has one
    A mirror of the hub             set HF_ENDPOINT
    """
    from wmtoolkit.llada2.hub import download as download_checkpoint

    result = download_checkpoint(repo_id, local_dir or repo_id.split("/")[-1], revision=revision)
    return {**result, "text": f"{result['local_dir']}: {result['bytes']:,} bytes, {result['layout']} experts"}
