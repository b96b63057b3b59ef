"""One file per architecture: scaled latents, time and condition to a prediction."""
