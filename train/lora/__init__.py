"""What is trained and how it is kept: adapters, twins, optimisers, average, checkpoints, exports.

`adapters` lies below everything else of the package; the rest above the objective.
"""
