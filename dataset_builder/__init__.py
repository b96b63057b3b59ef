"""The program around the pipeline: plan, build, export, gallery, card, publish."""
