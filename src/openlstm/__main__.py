"""`python -m openlstm`: the command line."""

import sys

from openlstm.cli import main

if __name__ == "__main__":
    sys.exit(main())
