"""Reports on corpora (`text`), on labelled sets (`labels`) and on sentences that occur in both (`overlap`)."""
