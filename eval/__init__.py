"""Images to numbers: scorers, measures of coherence, statistics and the benchmark program."""

SCORERS = {
    "aesthetic": "eval.metrics.aesthetic:Aesthetic",
    "clip": "eval.metrics.clip_score:ClipScore",
}
MEASURES = {
    "repetition": "eval.metrics.repetition:SelfSimilarity",
    "seam": "eval.metrics.seams:Seams",
    "repeated_objects": "eval.metrics.objects:RepeatedObjects",
}
