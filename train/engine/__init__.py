"""The exact gradient of a scroll's error over windows in constant memory; it knows of no preference.

From outside: `Problem`, `Side`, `Trainable`, `Field`, and `errors` and `gradients` over them.
"""
