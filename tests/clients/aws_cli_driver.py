"""Runs in the AWS CLI's environment: each line of input is a command's arguments as JSON, each line
of output its result.

It uses the CLI's own driver; one process for all commands saves a second for each.
"""

import contextlib
import io
import json
import sys

from awscli.clidriver import create_clidriver


def main() -> None:
    """Answer every line with `[status, output, errors]`."""
    driver = create_clidriver()
    for line in sys.stdin:
        out, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            try:
                status = driver.main(json.loads(line))
            except SystemExit as end:
                status = end.code
        sys.stdout.write(json.dumps([status, out.getvalue(), errors.getvalue()]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
