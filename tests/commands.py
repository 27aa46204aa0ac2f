"""What is said by a command that runs in a process of its own."""


def heard(process, word):
    """Wait until a process says this on its standard error."""
    for line in process.stderr:
        if word in line:
            return line
    raise AssertionError(f"it ended without saying {word!r}")
