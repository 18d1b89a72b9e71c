"""Computation complexity levels a to e, mixes of them, and who gets which (Section 3 and 4).

A client at level p (a is p = 1) trains a model whose hidden widths are `r^(p-1)` of the full ones, with
the shrinkage ratio r = 0.5. A mix says which levels take part and in which shares.
"""

import itertools
import re
from dataclasses import dataclass

import numpy as np

from heterofl_core.errors import InputError

LEVELS = "abcde"
SHRINKAGE_RATIO = 0.5


def width_rate(level: str) -> float:
    """The share of the full hidden width that a model of this level has: r^(p-1)."""
    return SHRINKAGE_RATIO ** LEVELS.index(level)


@dataclass(frozen=True)
class Mix:
    """Levels that take part, from large to small, and the parts in which they do.

    `a-e` has equal parts; `a3-e7` three tenths of level a and seven of level e; `a33-b33-c34` counts
    in hundredths. However it is written, a mix has one form: `a5-e5` is `a-e`, `a30-e70` is `a3-e7`.

    Attributes:
        levels: distinct letters from large to small.
        parts: one positive number a level; only their proportion matters.
    """

    levels: tuple[str, ...]
    parts: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> "Mix":
        """Reads a mix such as `e`, `a-e` or `a3-e7`.

        Raises:
            InputError: an unknown or repeated level, levels not from large to small, numbers on
                some levels only, or numbers that do not add up to 10 or 100.
        """
        allowed = "levels a to e from large to small, such as 'e', 'a-e' or 'a3-e7'"
        pieces = [re.fullmatch(r"([a-e])([1-9]\d*)?", piece) for piece in text.split("-")]
        if not all(pieces):
            raise InputError(f"levels {text!r} is not a mix of {allowed}")
        levels = tuple(piece[1] for piece in pieces if piece)
        numbers = [int(piece[2]) for piece in pieces if piece and piece[2]]
        if list(levels) != sorted(set(levels)):
            raise InputError(f"levels {text!r} repeats a level or is out of order; allowed are {allowed}")
        if not numbers:
            return cls(levels, (1,) * len(levels))
        if len(numbers) != len(levels):
            raise InputError(f"levels {text!r} has a number on some levels only; give all or none")
        if sum(numbers) not in (10, 100):
            raise InputError(
                f"levels {text!r} adds up to {sum(numbers)}; the numbers are tenths or hundredths of "
                "the clients and must add up to 10 or 100"
            )
        if len(set(numbers)) == 1:
            return cls(levels, (1,) * len(levels))
        if all(number % 10 == 0 for number in numbers):  # hundredths that are whole tenths
            numbers = [number // 10 for number in numbers]
        return cls(levels, tuple(numbers))

    def __str__(self) -> str:
        """The text that `parse` reads; equal parts are left out."""
        equal = len(set(self.parts)) == 1
        return "-".join(
            level if equal else f"{level}{part}" for level, part in zip(self.levels, self.parts, strict=True)
        )

    @property
    def shares(self) -> np.ndarray:
        """The share of each level, adding up to 1; shape (levels,)."""
        return np.array(self.parts) / sum(self.parts)

    @property
    def largest(self) -> str:
        """The level of the global model: the largest in the mix."""
        return self.levels[0]

    def fix(self, num_clients: int) -> list[str]:
        """Fix assignment: the first clients get the first level, and so on; one level a client.

        Shares that do not cut the clients evenly are rounded to the nearest client.

        Raises:
            InputError: a level would get no client at all.
        """
        cuts = np.rint(np.cumsum(self.shares) * num_clients).astype(int)
        counts = np.diff(cuts, prepend=0)
        if (counts == 0).any():
            raise InputError(
                f"num_clients {num_clients} is too few for levels {self}: "
                "each level needs a client of its own"
            )
        return [level for level, count in zip(self.levels, counts, strict=True) for _ in range(count)]

    def uniform(self, num_clients: int, rng: np.random.Generator) -> list[str]:
        """Uniform assignment: each client's level is drawn once, every level as likely, and stays."""
        return [str(level) for level in rng.choice(list(self.levels), num_clients)]

    def dynamic(self, rng: np.random.Generator) -> str:
        """Dynamic assignment: one client's level, drawn anew each round in proportion to the shares."""
        return str(rng.choice(list(self.levels), p=self.shares))


def all_mixes() -> list[Mix]:
    """The 31 mixes of equal parts, in the order of Tables 5 and 6."""
    subsets = (
        subset for size in range(1, len(LEVELS) + 1) for subset in itertools.combinations(LEVELS, size)
    )
    return [Mix(subset, (1,) * len(subset)) for subset in sorted(subsets, key=lambda s: (s[0], len(s), s))]
