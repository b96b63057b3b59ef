"""What leaves for the Hub: the tree of files and its upload."""
