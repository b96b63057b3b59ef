"""A checkpoint behind one face: weights, LoRAs, prompts, attention, schedulers, memory.

Takes torch, diffusers and transformers.
"""
