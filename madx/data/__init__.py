"""Everything between files, or Python objects, and the batches that a task computes with.

- `text`: raw text for language modules: corpora, tokenisation, packing into blocks, masks
- `labelled`: sentences with a tag for each word: readers, tag schemes, label sets, windows, batches
- `inspect`: reports on corpora and labelled sets, before anything is trained
- `world`: the miniature multilingual world, synthetic data for tests, examples and the quick start
"""
