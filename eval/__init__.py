"""Images to numbers: scorers, measures of coherence, statistics and the benchmark program."""

SCORERS = {
    "aesthetic": "eval.metrics.aesthetic:Aesthetic",
    "clip": "eval.metrics.clip_score:ClipScore",
}
MEASURES = {
    "surplus": "eval.metrics.surplus:SurplusObjects",
    "repetition": "eval.metrics.repetition:SelfSimilarity",
    "seam": "eval.metrics.seams:Seams",
    "border_seam": "eval.metrics.seams:BorderSeams",
    "style": "eval.metrics.style:Style",
    "border_frame": "eval.metrics.border:BorderFrame",
    "repeated_objects": "eval.metrics.objects:RepeatedObjects",
    "subject_present": "eval.metrics.objects:SubjectPresent",
    "gap": "eval.metrics.gap:Gap",
    "intra_lpips": "eval.metrics.peers:IntraLpips",
    "intra_style": "eval.metrics.peers:IntraStyle",
    "scene_right": "eval.metrics.objects:SceneRight",
}
