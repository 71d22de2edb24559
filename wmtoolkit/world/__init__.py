"""Trajectories as tokens, masks over them, and the any-order world model that fills what is masked."""
