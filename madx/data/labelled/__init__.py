"""Labelled sentences, from files to batches and back from predictions to tags.

- `sentences`: the class `Sentence`, and the checks that all readers share
- `conll`, `conllu`, `json_lines`: sentences from files, and into files; `memory`: from Python objects and data sets
- `lines`, `rows`: a file of columns as cells; `layouts`, `conll2012`: which columns are read; `words`: are these words?
- `tags`: IOB1, IOB2 and BIOES told apart and brought to IOB2; `labels`: tags <-> label ids
- `windows`: words -> pieces, long sentences in several windows; `batches`: windows of similar length together
"""
