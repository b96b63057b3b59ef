"""Where things lie: windows, their weights, what a model is told about sizes.

No networks; from torch only tensors.
"""
