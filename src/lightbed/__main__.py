"""`python -m lightbed` is the `lightbed` command."""

import sys

from lightbed.cli import main

if __name__ == "__main__":
    sys.exit(main())
