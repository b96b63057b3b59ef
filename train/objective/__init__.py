"""The loss of one pair and its gradient: noise, losses, region term, references, the network in training.

From outside: `Trainee`, and `pair_gradients` for a pair that is noised already.
"""
