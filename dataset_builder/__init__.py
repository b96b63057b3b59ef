"""The program around the pipeline: build, export, look at and publish preference datasets."""
