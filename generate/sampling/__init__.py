"""The parts of a sampler: predict, guide, combine, step, and the loop over them.

Takes torch alone.
"""
