"""`python -m staff` is `staff`."""

import sys

from staff.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
