"""``python -m tenantry``, and the installed script: the command line, where it is installed."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; say what to install where the client was installed alone."""
    try:
        from tenantry.command_line.main import main as run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in {"click", "rich"}:
            raise
        sys.stderr.write(
            f"tenantry: its command line needs {error.name}, which is not installed; "
            f"install tenantry with its extra cli, as in `pip install 'tenantry[cli]'`\n"
        )
        raise SystemExit(1) from None
    run()


if __name__ == "__main__":
    main()
