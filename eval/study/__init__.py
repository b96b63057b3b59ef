"""The paper's claims held against finished benchmarks."""
