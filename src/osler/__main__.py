"""`python -m osler`: the command line, where the command `osler` is not on the path."""

import sys

from osler.cli.main import main

sys.exit(main())
