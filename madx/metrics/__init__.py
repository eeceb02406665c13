"""Scores, significance tests and similarity of languages: numbers only."""
