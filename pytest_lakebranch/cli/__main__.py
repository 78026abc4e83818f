"""``python -m pytest_lakebranch.cli``: the command ``lakebranch``."""

import sys

from pytest_lakebranch.cli import main

sys.exit(main())
