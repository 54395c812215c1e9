"""Slow, obvious twins of the code under test: written to be read beside the paper, never to be fast."""
