"""The verbs of the command line, one module per family. Importing one is cheap: what a verb runs is imported when it runs."""
