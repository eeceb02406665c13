"""Corpora and labelled files: formats of others, whose words have no checksum."""

import gzip
from pathlib import Path

from campaign.subjects.subject import Subject, digest
from madx.data.text.corpora import read_corpus
from madx.jobs.labelled import Columns, read_labelled, task_type

CORPUS = "Juma anaishi Nairobi.\nỌ̀yọ́ jẹ́ ìlú ńlá.\nजुमा नैरोबी में रहता है।\nمی‌روم به خانه\n東京に住む\n" * 3
CONLL = "# id = 1\nJuma\tB-PER\nanaishi\tO\nDar\tB-LOC\nes\tI-LOC\nSalaam\tI-LOC\n.\tO\n\nỌ̀yọ́\tB-LOC\nni\tO\n\n" * 3
COLUMNS = "-DOCSTART- -X- -X- O\n\nJuma NNP B-NP B-PER\nlives VBZ B-VP O\nin IN B-PP O\nDar NNP B-NP B-LOC\n\n" * 3
CONLLU = (
    "# sent_id = 1\n# text = Juma anaishi hapa\n1\tJuma\tJuma\tPROPN\t_\t_\t2\tnsubj\t_\t_\n"
    "2-3\tanaishi\t_\t_\t_\t_\t_\t_\t_\t_\n2\tana\tana\tAUX\t_\tTense=Pres\t0\troot\t_\t_\n"
    "3\tishi\tishi\tVERB\t_\t_\t2\tx\t_\t_\n3.1\tx\t_\t_\t_\t_\t_\t_\t_\t_\n4\thapa\thapa\tADV\t_\t_\t2\tobl\t_\t_\n\n"
) * 3
JSONL = '{"tokens": ["Juma", "anaishi", "Ọ̀yọ́"], "tags": ["B-PER", "O", "B-LOC"], "id": 7}\n' * 4
TEXTS = '{"text": "Juma anaishi Nairobi.", "id": 1}\n{"text": "Ọ̀yọ́ jẹ́ ìlú", "id": 2}\n' * 3


def _corpus(name: str, content: str, **options) -> Subject:
    data = content.encode()

    def make(folder: Path) -> None:
        (folder / name).write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)

    def read(folder: Path) -> str:
        return digest(list(read_corpus(str(folder / name))))

    return Subject(f"corpus {name}", "readers", make, read, (name,), **options)


def _labelled(name: str, content: str, task: str = "ner") -> Subject:
    data = content.encode()

    def make(folder: Path) -> None:
        (folder / name).write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)

    def read(folder: Path) -> str:
        found = read_labelled(str(folder / name), Columns(), task_type(task))
        return digest([[sentence.tokens, sentence.tags] for sentence in found])

    return Subject(f"labelled {name}", "readers", make, read, (name,))


SUBJECTS = (
    _corpus("swa.txt", CORPUS),
    _corpus("swa.txt.gz", CORPUS),
    _corpus("swa.jsonl", TEXTS),
    _labelled("tab.conll", CONLL),
    _labelled("tab.conll.gz", CONLL),
    _labelled("four.conll", COLUMNS),
    _labelled("pos.conllu", CONLLU, task="pos"),
    _labelled("ner.jsonl", JSONL),
)
