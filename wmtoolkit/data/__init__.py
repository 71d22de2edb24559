"""Real levels, recorded trajectories, datasets and batches."""
