"""The reader study: the questions of an evaluation, shown to people."""
