"""Agents: what acts, in a real level or in imagination."""
