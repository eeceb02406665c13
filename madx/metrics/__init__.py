"""Scores, significance tests and similarity of languages: numbers only, without models, files or tables."""
