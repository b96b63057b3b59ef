"""Scores to pairs: pure functions on tables."""
