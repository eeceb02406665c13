"""Labelled text: readers, tags, windows over long sentences, batches."""
