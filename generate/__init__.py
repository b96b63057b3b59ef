"""Prompt to scroll: windowed diffusion samplers over Stable Diffusion and SDXL checkpoints."""

GENERATORS = {
    "sdxl": "generate.methods.sdxl:SDXL",
    "multidiffusion": "generate.methods.multidiffusion:MultiDiffusion",
    "mad": "generate.methods.mad:MAD",
    "drspo": "generate.methods.drspo.two_stage:DRSPO",
}
