"""The error for everything a user can mend."""


class UserError(ValueError):
    """A mistake in the data, the configuration or a file; the message says what was found, where, and what is allowed.

    The tools print the message alone, without a traceback.
    """


def plain_message(error: UserError) -> str:
    """Strips the traceback that a DataLoader worker folds into the message of the error it passes on."""
    text = str(error)
    return text.rpartition(f"{UserError.__name__}: ")[2].strip() if text.startswith("Caught") else text
