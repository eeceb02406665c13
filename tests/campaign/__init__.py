"""The campaign: what kills, damaged files, crowds of processes, limits, hostile hubs and hostile text do to madx.

`make campaign` runs it (`python -m campaign --help`). Every attempt has a number, and its random choices depend on the
seed, its subject and its number alone, so `--only SUBJECT --number N` repeats one attempt exactly.
"""

import os

# Before torch is imported: children are forked, so no process may have a pool of threads.
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
