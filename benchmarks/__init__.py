"""Benchmark suites, baselines and the report."""
