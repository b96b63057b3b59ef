"""Training: preference pairs in, LoRA weights out, with the exact gradient of the scroll objective."""

LOSSES = {
    "dpo": "train.losses:dpo",
    "ipo": "train.losses:ipo",
    "hinge": "train.losses:hinge",
    "sdpo": "train.losses:dpo",
    "mapo": "train.losses:mapo",
    "kto": "train.losses:kto",
}
