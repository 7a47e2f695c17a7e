"""The errors that are told in one line: bad input, a fault of the run, and a run that a search has given up."""


class UserError(ValueError):
    """Bad input: usage, configuration or data.

    The message is one line: what is wrong, where, and how to mend it. The command line prints it without a traceback
    and ends with exit code 2.
    """


class RunError(RuntimeError):
    """A fault that ends a run and that its message explains in one line: a full disk, a loss that is no number.

    The command line prints it without its kind and ends with exit code 1; the traceback stands in the run's log.txt.
    """

    agreed = False
    """Whether all processes of a run have it at the same step."""


class Pruned(RunError):  # noqa: N818 - the word of searches
    """A search ends this run early, for its curve is behind those of others: no failure, and its status says so."""


def first_sentence(error: Exception) -> str:
    """What `error` says first, for a line of ours; of torch's refusal to unpickle, the cause and not its history."""
    text = str(error).strip()
    text = text.partition("WeightsUnpickler error: ")[2].strip() or text or type(error).__name__
    return text.splitlines()[0].partition(". ")[0][:120]


def printable(text: str) -> str:
    """`text` with control characters spelt out: names of files and classes may hold what a terminal would act upon."""
    return "".join(c if c in "\n\t" or c >= "\xa0" or " " <= c <= "~" else f"\\x{ord(c):02x}" for c in text)


def nearest(word: str, names: list[str], count: int = 3) -> str:
    """The closest of `names` to `word` as a clause for an error message, or the whole list where it is short."""
    import difflib

    close = difflib.get_close_matches(word, names, n=count, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    listed = sorted(names)
    return "there is " + ", ".join(listed[:20]) + (" ..." if len(listed) > 20 else "") if listed else ""


def one_of(value: str, choices: tuple[str, ...], key: str) -> str:
    """`value`, if it is one of `choices`; else the error names the config key and the nearest choice."""
    if value not in choices:
        raise UserError(
            f"{key}={value} is not known: {nearest(str(value), list(choices))} (one of {', '.join(choices)})"
        )
    return value
