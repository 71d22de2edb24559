"""Sections, figures and tables of the report."""
