"""`python -m staff` is `staff`."""

import sys

STOPPED = 130  # as `staff.cli.main` says, which may be what could not be imported


def start() -> int:
    """Run the command line; Ctrl-C while it is still being imported is no traceback either."""
    try:
        from staff.cli.main import main
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return STOPPED
    return main()


if __name__ == "__main__":
    sys.exit(start())
