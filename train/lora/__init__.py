"""What is trained and how it is kept: adapters, optimisers, average, checkpoints, exports."""
