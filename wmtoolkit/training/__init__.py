"""Training: objective, optimiser, loop, checkpoints."""
