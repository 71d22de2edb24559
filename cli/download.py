"""``wmtool download``: a LLaDA2 checkpoint from the Hugging Face hub."""

from __future__ import annotations

from typing import Any

import click

from wmtoolkit.cli.common import command_options


@click.command(epilog="Example: wmtool download --repo-id inclusionAI/LLaDA2.0-mini --local-dir LLaDA2.0-mini")
@click.option("--repo-id", default="inclusionAI/LLaDA2.0-mini", show_default=True, metavar="OWNER/NAME")
@click.option("--local-dir", metavar="DIR", help="Folder to fill [the repository's name].")
@click.option("--revision", help="Branch, tag or commit [main].")
@click.option("--seed", type=int, help="Accepted as everywhere; nothing here is random.")
@command_options
def download(repo_id: str, local_dir: str | None, revision: str | None, seed: int | None) -> dict[str, Any]:
    """Fetch a LLaDA2 checkpoint from the Hugging Face hub and check it.

    Interrupted downloads go on where they stopped. The free disk space is checked first; weights as pickles are
    never fetched.
    """
    from wmtoolkit.llada2.hub import download as download_checkpoint

    result = download_checkpoint(repo_id, local_dir or repo_id.split("/")[-1], revision=revision)
    return {**result, "text": f"{result['local_dir']}: {result['bytes']:,} bytes, {result['layout']} experts"}
