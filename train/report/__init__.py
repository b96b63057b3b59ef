"""What a run tells: metrics, held-out pairs, samples, tracking, curves, card."""
