"""Disk to latents: where pairs lie, rows, encoders, the cache of what they gave, the list and its order.

From outside: `prepare_pairs`, `PairSet`, `EncodedPair`, `pair_index`.
"""
