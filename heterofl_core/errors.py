"""The one exception for input that a person can mend."""


class InputError(ValueError):
    """Input that cannot be used: one sentence that names it, its value and what is allowed.

    Attributes:
        status: with which a command ends that raises it.
    """

    status = 2

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))  # what it quotes may have several lines


class MismatchError(InputError):
    """Results that should be the same are not: what was asked for is in order, and the answer is no."""

    status = 1
