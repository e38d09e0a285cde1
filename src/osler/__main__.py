"""`python -m osler`: the command line, for machines and launchers that do not have `osler` on their path."""

import sys

from osler.cli.main import main

sys.exit(main())
