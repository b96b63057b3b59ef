"""The paper's method: a blueprint plans the scroll, windows paint it."""
