"""The benchmark: rows, prompts, pictures and their numbers, shared by any number of processes."""
