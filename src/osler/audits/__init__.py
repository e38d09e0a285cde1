"""What questions give away without their image, what test shares with train, and what is wrong with the options.

A policy's accuracy means something only beside these. `blind` holds the baselines, `leaks` what train and test share, `cases` the rules
that read a patient or case from a file name, `quality` the faults of the rows themselves.
"""

from osler.audits.baselines import OptionPrior

__all__ = ["OptionPrior"]
