"""What metrics share: embeddings of pictures, how a long picture is shown, heads on top."""
