"""The whole story on a CPU, and its page."""
