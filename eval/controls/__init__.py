"""Controls: pictures whose defects are known because we drew them, each beside its clean twin.

`drawn` makes scenes of the miniature's world; `objects`, `surroundings` and `pictures` change them. A control
is a function of a drawn scene and a random generator that gives the changed picture, or None where it cannot
be made of this scene.
"""
