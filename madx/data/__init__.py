"""What training and evaluation read, from files to batches.

- `corpora`: raw text, streamed from .txt / .jsonl (.gz), folders and `datasets` names
- `packing`, `blocks`: text -> token blocks of one length on disk, with a held-out share
- `masking`: the 80/10/10 rule of masked language modelling as a pure function of seed and row
- `conll`: labelled sentences in and out; `tags`: IOB1, BIOES -> IOB2; `labels`: tags <-> ids
- `windows`: words -> pieces, long sentences in windows; `batches`: length-bucketed batches, the stream of block indices
- `tokenizing`: plain text -> ids, the same way everywhere
"""
