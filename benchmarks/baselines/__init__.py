"""Models that are trained on the same data and budget as the world model, to be measured beside it."""
