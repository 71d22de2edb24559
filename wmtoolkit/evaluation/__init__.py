"""Metrics of predictions and agents, with confidence intervals and result files."""
