"""The loss of one pair and its gradient: noise, losses, region term, references."""
