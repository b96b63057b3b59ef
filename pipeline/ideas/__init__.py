"""Texts: where prompts come from, how they are expanded, filtered and freed of near duplicates."""
