"""What a corpus and labelled files hold, looked at before training."""
