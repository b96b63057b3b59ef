"""What a run tells: metrics, held-out pairs, samples, tracking, curves, the card, and what it remembers.

From outside: what `train.loop` calls; nothing here changes what is learnt.
"""
