"""Questions to a language model: asking, the wire, the cache, the pace."""
