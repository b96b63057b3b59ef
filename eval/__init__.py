"""Images to numbers: scorers, measures of coherence, statistics and the benchmark program."""

SCORERS = {
    "aesthetic": "eval.aesthetic:Aesthetic",
    "clip": "eval.clip_score:ClipScore",
}
MEASURES = {
    "repetition": "eval.repetition:SelfSimilarity",
    "seam": "eval.seams:Seams",
    "repeated_objects": "eval.objects:RepeatedObjects",
}
