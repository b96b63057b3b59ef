"""A file for each metric: scorers of single pictures and measures of a scroll's coherence."""
