"""The files of a LoRA's folder, as training writes, generation reads and publishing sends them."""

FILE = "pytorch_lora_weights.safetensors"
"""The weights, under the name that diffusers' `load_lora_weights` looks for."""
FACTS = "drspo.json"
"""What the weights are for: stage, base, canvas, windows and how they were trained."""
CARD = "README.md"
