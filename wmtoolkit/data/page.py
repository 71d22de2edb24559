"""A dataset on one HTML page: its numbers, histograms, and film strips of sample episodes. One file, no scripts."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment
from minigrid.core.grid import Grid
from PIL import Image

from wmtoolkit.data.events import EVENTS, step_events
from wmtoolkit.data.files import whole_file
from wmtoolkit.data.inspection import overlap_text
from wmtoolkit.data.splits import SPLITS
from wmtoolkit.data.store import EpisodeStore
from wmtoolkit.world import grid
from wmtoolkit.world.missions import named_objects
from wmtoolkit.world.trajectory import Outcome, Trajectory

TILE = 12
FILM_FRAMES = 24

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --text: #1c1e21; --dim: #666b73; --page: #fff; --card: #f5f6f8; --bar: #4a7ebb }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e8eb; --dim: #9aa1ab; --page: #15171a; --card: #1f2226; --bar: #6d9fdb }
}
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 74rem; padding: 2rem 1.2rem 4rem;
  color: var(--text); background: var(--page) }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere } h2 { font-size: 1.15rem; margin: 2rem 0 .4rem }
h3 { font-size: 1rem; margin: 1.4rem 0 0 } p { max-width: 48rem; margin: .3rem 0 } .dim { color: var(--dim) }
.tiles { display: flex; flex-wrap: wrap; gap: .7rem; margin: 1.2rem 0 }
.tile { background: var(--card); border-radius: .5rem; padding: .6rem 1rem; min-width: 7rem }
.tile strong { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums }
.groups { columns: 31rem; column-gap: 3rem } .groups section { break-inside: avoid; padding-top: .1px }
table { border-collapse: collapse; width: 100% }
td, th { padding: .1rem .8rem .1rem 0; text-align: left; font-weight: normal; white-space: nowrap }
.number { text-align: right; font-variant-numeric: tabular-nums } td:last-child { width: 100%; padding: 0 }
.bar { background: var(--bar); height: .75rem; border-radius: .15rem; min-width: 1px }
pre { background: var(--card); border-radius: .4rem; padding: .6rem .8rem; white-space: pre-wrap;
  overflow-wrap: anywhere; font-size: .8rem; margin: .4rem 0 }
.film { display: flex; flex-wrap: wrap; gap: .5rem; margin: .5rem 0 1.2rem }
.film figure { margin: 0; width: 84px } .film img { display: block; border-radius: .2rem }
figcaption { font-size: .72rem; line-height: 1.25; color: var(--dim); padding-top: .2rem }
</style></head><body>
<h1>{{ title }}</h1>
<p class="dim">{{ levels }}</p>
<div class="tiles">
{% for name, value in tiles %}<div class="tile"><strong>{{ value }}</strong>{{ name }}</div>
{% endfor %}</div>
{% for note in notes %}<p>{{ note }}</p>
{% endfor %}<pre>{% for command in commands %}{{ command }}
{% endfor %}fingerprint {{ fingerprint }}</pre>
<div class="groups">
{% for heading, bars in histograms %}<section><h2>{{ heading }}</h2><table>
{% for name, count, width in bars %}<tr><th>{{ name }}</th><td class="number">{{ "{:,}".format(count) }}</td>
<td>{% if count %}<div class="bar" style="width: {{ width }}%"></div>{% endif %}</td></tr>
{% endfor %}</table></section>
{% endfor %}</div>
<h2>Sample episodes</h2>
<p class="dim">What the agent saw, step by step; it looks up from the middle of the lowest row, where what it carries
is drawn.</p>
{% for film in films %}<h3>{{ film.mission }}</h3>
<p class="dim">{{ film.note }}</p>
<div class="film">
{% for frame in film.frames %}<figure><img src="data:image/png;base64,{{ frame.png }}" width="84" height="84"
alt="view after {{ frame.caption }}"><figcaption>{{ frame.caption }}</figcaption></figure>
{% endfor %}</div>
{% endfor %}</body></html>
"""


def write_page(path: Path, document: dict[str, Any], store: EpisodeStore, films: int, seed: int) -> None:
    """Write the page, whole or not at all.

    Args:
        path: the HTML file.
        document: what ``inspect_dataset`` found.
        store: the episodes to sample from.
        films: how many episodes to show; as many behaviours and endings as possible.
        seed: draws them.
    """
    splits = ", ".join(f"{name} {count:,}" for name, count in document["splits"].items())
    tiles = [
        ("episodes", f"{document['episodes']:,}"),
        ("steps", f"{document['steps']:,}"),
        ("success", f"{document['success_rate']:.1%}"),
        ("failure", f"{document['failure_rate']:.1%}"),
        ("out of time", f"{document['truncated_rate']:.1%}"),
        ("cells seen for the first time", f"{document['revealed_cell_share']:.1%}"),
        ("missions", f"{document['missions']:,}"),
        ("repeated episodes", f"{document['duplicates']['episodes']:,}"),
    ]
    faults = [f"{name} {count}" for errors in document["errors"] for name, count in errors.items()]
    notes = [f"Splits: {splits}.", overlap_text(document["duplicates"])]
    if faults:
        notes.append(f"What went wrong while collecting: {', '.join(faults)}.")
    behaviours = {
        f"{name}, {entry['success_rate']:.0%} success": entry["episodes"]
        for name, entry in document["behaviours"].items()
    }
    histograms = [
        ("Episode lengths, steps", _bars(_length_counts(store))),
        ("Behaviours, episodes", _bars(behaviours)),
        ("Actions", _bars(document["actions"])),
        ("Events", _bars(document["events"])),
        ("Mission words", _bars(document["mission_words"])),
    ]
    page = (
        Environment(autoescape=True)
        .from_string(_TEMPLATE)
        .render(
            title=", ".join(document["datasets"]),
            levels=", ".join(document["levels"]),
            tiles=tiles,
            notes=filter(None, notes),
            commands=document["commands"],
            fingerprint=document["fingerprint"],
            histograms=histograms,
            films=[_film(store, episode) for episode in sample_episodes(store, films, np.random.default_rng(seed))],
        )
    )
    with whole_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _bars(counts: dict[str, int]) -> list[tuple[str, int, float]]:
    most = max([1, *counts.values()])
    return [(name, count, round(100 * count / most, 1)) for name, count in counts.items()]


def _length_counts(store: EpisodeStore, bins: int = 12) -> dict[str, int]:
    """Episodes by number of steps, in equal ranges."""
    if not len(store):
        return {}
    longest = int(store.lengths.max())
    width = -(-(longest + 1) // bins)
    counts = np.bincount(store.lengths // width)
    ranges = [(i * width, min(i * width + width - 1, longest)) for i in range(len(counts))]
    return {str(low) if low == high else f"{low}-{high}": int(n) for (low, high), n in zip(ranges, counts, strict=True)}


def sample_episodes(store: EpisodeStore, count: int, rng: np.random.Generator) -> list[int]:
    """Episodes drawn so that kinds (behaviour and ending) take turns, each in random order."""
    ends = np.asarray(store.outcomes)[store.offsets[1:] - 1]
    kinds: dict[tuple[int, int], list[int]] = {}
    for episode in rng.permutation(len(store)).tolist():
        kinds.setdefault((int(store.behaviours[episode]), int(ends[episode])), []).append(episode)
    queues = [kinds[kind] for kind in sorted(kinds)]
    chosen: list[int] = []
    while len(chosen) < min(count, len(store)):
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.append(queue.pop())
    return chosen


def _film(store: EpisodeStore, episode: int) -> dict[str, Any]:
    trajectory = store.trajectory(episode)
    steps = len(trajectory)
    shown = min(steps, FILM_FRAMES - 1)
    named = np.broadcast_to(named_objects(trajectory.mission), (steps, len(grid.OBJECTS), len(grid.COLORS)))
    events = step_events(trajectory.images[:-1], trajectory.images[1:], trajectory.actions, named)
    captions = ["start"] + [
        f"{step + 1} {grid.ACTIONS[trajectory.actions[step]]}: {EVENTS[events[step]]}" for step in range(shown)
    ]
    end = Outcome(int(trajectory.outcomes[-1])).name.lower() if trajectory.terminations.any() else "out of time"
    note = (
        f"{trajectory.behaviour}, level seed {trajectory.seed}, {SPLITS[store.splits[episode]]}, {steps} steps, {end}"
        + (f"; the first {shown} are shown" if shown < steps else "")
    )
    frames = [{"png": _png(trajectory, step), "caption": caption} for step, caption in enumerate(captions)]
    return {"mission": trajectory.mission, "note": note, "frames": frames}


def _png(trajectory: Trajectory, step: int) -> str:
    view, visible = Grid.decode(trajectory.images[step])
    picture = view.render(TILE, agent_pos=grid.AGENT_CELL, agent_dir=3, highlight_mask=visible)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
