"""Prompt to scroll: windowed diffusion samplers over UNets and transformers."""

GENERATORS = {
    "direct": "generate.methods.direct:Direct",
    "sdxl": "generate.methods.sdxl:SDXL",
    "multidiffusion": "generate.methods.multidiffusion:MultiDiffusion",
    "mad": "generate.methods.mad:MAD",
    "spotdiffusion": "generate.methods.spotdiffusion:SpotDiffusion",
    "twindiffusion": "generate.methods.twindiffusion:TwinDiffusion",
    "gvcf": "generate.methods.gvcf:GVCF",
    "elasticdiffusion": "generate.methods.elasticdiffusion:ElasticDiffusion",
    "syncdiffusion": "generate.methods.syncdiffusion:SyncDiffusion",
    "drspo": "generate.methods.drspo.two_stage:DRSPO",
}
