#!/usr/bin/env bash
# From a bare machine to an imagined, planned and measured episode: sets everything up, collects episodes of a BabyAI
# level, trains a world model from scratch, measures it on unseen levels, lets four agents play, and writes a report.
# What is there already is kept: a second run only prints where the report is, an interrupted one goes on.
source "$(dirname "$0")/scripts/environment.sh"

out="${1:-quickstart-out}"
level=BabyAI-GoToRedBallGrey-v0
data="$out/data"
model="$out/train/checkpoint"
fresh_seed=1000000 # far beyond the seeds that are collected
run() { echo "\$ $*" >&2; "$@"; }

mkdir -p "$out"
run wmtool collect --level "$level" --episodes 2500 --workers 2 --seed 0 --out "$data" --resume
run wmtool train --config quickstart --data "$data" --out "$out/train" --resume
if [ ! -f "$out/evaluate/results.json" ]; then
    run wmtool evaluate --checkpoint "$model" --data "$data" --split test --out "$out/evaluate" --overwrite
fi
for agent in random policy best-first bot; do
    if [ ! -f "$out/$agent/results.json" ]; then
        video=()
        if [ "$agent" = best-first ]; then video=(--video "$out/$agent/episode.gif"); fi
        run wmtool rollout --agent "$agent" --level "$level" --checkpoint "$model" --episodes 100 \
            --seed "$fresh_seed" --out "$out/$agent" --overwrite "${video[@]}"
    fi
done
if [ ! -f "$out/imagined/results.json" ]; then
    run wmtool rollout --agent policy --imagined --level "$level" --checkpoint "$model" --episodes 20 \
        --seed "$fresh_seed" --out "$out/imagined" --overwrite
fi
run wmtool compare "$out/train" "$out/evaluate" "$out/random" "$out/policy" "$out/best-first" "$out/bot" \
    "$out/imagined" --out "$out/report.html" --title "Quickstart: a world model of $level" >/dev/null
echo
echo "The report: $PWD/$out/report.html"
