"""Prompt to scroll: windowed diffusion samplers over UNets and transformers."""

GENERATORS = {
    "direct": "generate.methods.direct:Direct",
    "sdxl": "generate.methods.sdxl:SDXL",
    "multidiffusion": "generate.methods.multidiffusion:MultiDiffusion",
    "mad": "generate.methods.mad:MAD",
    "syncdiffusion": "generate.methods.syncdiffusion:SyncDiffusion",
    "drspo": "generate.methods.drspo.two_stage:DRSPO",
}
