"""The one exception that reaches a person: what is wrong, where, and how to mend it, in one line."""


class UserError(Exception):
    """Bad input from a person (or a peer): the command line prints its message on one line and exits with 2."""

    def __str__(self) -> str:
        told = " ".join(str(part) for part in self.args).replace("\n", " ")
        return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in told)
