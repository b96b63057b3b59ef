"""Intervals and ranks that keep their promise."""
