"""Training: preference pairs in, LoRA weights out, with the exact gradient of the scroll objective."""

LOSSES = {
    "dpo": "train.objective.losses:dpo",
    "ipo": "train.objective.losses:ipo",
    "hinge": "train.objective.losses:hinge",
    "sdpo": "train.objective.losses:dpo",
    "mapo": "train.objective.losses:mapo",
    "kto": "train.objective.losses:kto",
}
