"""Disk to latents: rows, encoders, the cache of what they gave."""
