"""Raw text for language modules, from corpora to masked blocks of token ids.

- `files`: lines of a file of any encoding, packed or not; labelled files are read by it, too
- `corpora`: texts from .txt and .jsonl files, folders and names of data sets; `memory`: texts from Python objects
- `tokenizing`: text -> token ids, in the same way everywhere
- `packing`, `blocks`: texts -> blocks of one length on disk, some of them held out, in a cache
- `block_batches`: the blocks of each optimiser step; `masking`: the tokens that are hidden in them
"""
