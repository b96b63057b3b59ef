"""Latents to pictures and back: the autoencoder in strips, line art, previews.

Takes torch, pillow and opencv.
"""
