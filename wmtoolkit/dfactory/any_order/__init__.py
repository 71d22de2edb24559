"""Any-order training on trajectories of BabyAI, for dFactory's folder of tasks. Needs torch and numpy, nothing else."""
