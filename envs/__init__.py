"""Imagination as Gymnasium environments."""
