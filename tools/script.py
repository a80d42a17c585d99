"""What a tool needs to be run: by `spectral` or as a script of a clone."""

import sys
from typing import Any, Callable


def run(main: Callable[[], Any]) -> None:
    """Call a tool's `main`; mistakes that a user can mend end in one line and status 1, without a traceback."""
    try:
        main()
    except ValueError as error:
        # A tool that has met such an error has imported its module; to import it here would bring in mmengine.
        errors = sys.modules.get("spectral_backbones.engine.errors")
        if errors is None or not isinstance(error, errors.UserError):
            raise
        sys.exit(f"error: {errors.plain_message(error)}")
