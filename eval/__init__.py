"""Images to numbers: scorers, measures of coherence, statistics and the benchmark program."""

# Those that judge a picture, and its prompt, by learned weights.
SCORERS = {
    "aesthetic": "eval.metrics.aesthetic:Aesthetic",
    "hps_v2": "eval.metrics.hps:HpsV2",
    "hps_v21": "eval.metrics.hps:HpsV21",
    "pickscore": "eval.metrics.pickscore:PickScore",
    "image_reward": "eval.metrics.image_reward:ImageReward",
    "clip": "eval.metrics.clip_score:ClipScore",
    "question": "eval.metrics.question:Question",
}

# Those that look at a scroll's coherence.
MEASURES = {
    "surplus": "eval.metrics.surplus:SurplusObjects",
    "surplus_photo": "eval.metrics.surplus_photo:SurplusPhoto",
    "repetition": "eval.metrics.repetition:SelfSimilarity",
    "seam": "eval.metrics.seams:Seams",
    "border_seam": "eval.metrics.seams:BorderSeams",
    "style": "eval.metrics.style:Style",
    "blueprint_fidelity": "eval.metrics.fidelity:BlueprintFidelity",
    "border_frame": "eval.metrics.border:BorderFrame",
    "repeated_objects": "eval.metrics.objects:RepeatedObjects",
    "subject_present": "eval.metrics.objects:SubjectPresent",
    "scene_right": "eval.metrics.objects:SceneRight",
    "gap": "eval.metrics.gap:Gap",
    "intra_lpips": "eval.metrics.peers:IntraLpips",
    "intra_style": "eval.metrics.peers:IntraStyle",
}

METRICS = {**SCORERS, **MEASURES}
