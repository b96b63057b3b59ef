"""Prompt to scroll: windowed diffusion samplers over Stable Diffusion and SDXL checkpoints."""

GENERATORS = {
    "sdxl": "generate.sdxl:SDXL",
    "multidiffusion": "generate.multidiffusion:MultiDiffusion",
    "mad": "generate.mad:MAD",
    "drspo": "generate.two_stage:DRSPO",
}
