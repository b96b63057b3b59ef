"""The words that our settings are made of: an account that is called so tells on nobody."""

OWN_WORDS = frozenset(
    """
    444 accepted adafactor adamw adamw8bit adjacent aesthetic all alpha ancestral api auto autograd best
    bf16 blueprint border bottom candidates canvas checkpoint chunk clip command completion conservative
    constant corpus cosine crop ddim ddpm direct downscale dpmpp dpo drop drspo elasticdiffusion encoded
    epsilon equal euler expand feathered fidelity flow flush flux fp32 frame gap gaussian generator
    grammar groups gvcf highres hinge hps image intra ipo jpeg95 json keep key kto laion large last linear
    llm local lossless lpips mad mapo max medium miniature multidiffusion native none object objects off
    one openai outdoor overlap own pairs paper pareto pass photo pickscore pixart pndm png present prompt
    prompts question raw ray refuse repeated repetition reward right robust rules same scene schema
    schnell scores script scroll sd3 sdpo sdxl seam shards sigma spotdiffusion stream style subject
    surplus syncdiffusion tokens top train truncate twindiffusion two uncovered uniform unipc v21
    validation vcf vit votes webp whole window wins worst zeros zscore
    """.split()
)
"""The parts, from three letters on, of registered names, choices and defaults, and of a funnel's steps."""
