"""Pictures: planned units, the actors that paint and score them, the guard around them."""
