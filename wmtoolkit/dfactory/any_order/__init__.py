"""Any-order training on trajectories of BabyAI, for dFactory's folder of tasks. Needs nothing but its packages."""
