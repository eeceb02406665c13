"""Every kind of file that madx reads: how the campaign makes one, which of its files are damaged, how it is read."""

from campaign.subjects import foreign, runs, settings, stored, texts
from campaign.subjects.subject import Subject

#: name -> subject
SUBJECTS: dict[str, Subject] = {
    subject.name: subject for room in (stored, runs, settings, texts, foreign) for subject in room.SUBJECTS
}
