"""Who takes part: the public key of each client, and the level that goes with it.

The operator writes this file when a device is registered. Whoever has not got the private key cannot pass for
its owner, so the level hangs on the key: what a client says about itself changes nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import yaml
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

from heterofl_core.errors import InputError
from heterofl_core.files import write_text
from heterofl_core.levels import LEVELS
from heterofl_core.strict_yaml import parse_yaml


class Node(Protocol):
    """What Flower's server knows of a connected node: its number, and the key that it has proved to hold."""

    node_id: int
    public_key: bytes


@dataclass(frozen=True)
class Member:
    """A client that may take part.

    Attributes:
        client: its number, from 0.
        level: the operator's word, not the client's.
        key: its public key, as in a `.pub` file of OpenSSH.
    """

    client: int
    level: str
    key: str


@dataclass(frozen=True)
class Roster:
    """All clients that may take part, in the order of their numbers.

    Raises:
        InputError: nobody is on it, a level does not exist, a key cannot be read, or stands there twice.
    """

    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        if not self.members:
            raise InputError("a roster needs at least one client, each with a level and a key")
        for member in self.members:
            if member.level not in list(LEVELS):
                raise InputError(
                    f"client {member.client} has the level {member.level!r}; allowed are {', '.join(LEVELS)}"
                )
        holders: dict[bytes, int] = {}
        for member in self.members:
            if (other := holders.setdefault(in_pem(member.key), member.client)) != member.client:
                raise InputError(
                    f"clients {other} and {member.client} have one key in the roster; each needs its own"
                )

    @classmethod
    def read(cls, path: Path) -> "Roster":
        """Reads the operator's file.

        Raises:
            InputError: there is no such file, or it is not a list of levels and keys.
        """
        try:
            entries = parse_yaml(path.read_text(encoding="utf-8"))
            members = [
                Member(number, str(entry["level"]), str(entry["key"])) for number, entry in enumerate(entries)
            ]
        except (OSError, ValueError, TypeError, KeyError) as error:  # not YAML, not UTF-8, or something else
            raise InputError(
                f"roster {path} cannot be read ({error}); it is a list with a level and a key each"
            ) from error
        return cls(tuple(members))

    def write(self, path: Path) -> None:
        """Writes the operator's file; public keys only, so it is no secret."""
        entries = [{"level": member.level, "key": member.key} for member in self.members]
        write_text(path, yaml.safe_dump(entries, sort_keys=False, width=1000))

    @property
    def trace(self) -> str:
        """The clients' levels as one text with a letter for each; see `RunParams.trace`."""
        return "".join(member.level for member in self.members)

    @property
    def levels(self) -> str:
        """The levels that occur, as `RunParams.levels` writes them."""
        return "-".join(sorted(set(self.trace)))

    def by_key(self) -> dict[bytes, Member]:
        """The members by their keys, in Flower's form."""
        return {in_pem(member.key): member for member in self.members}

    def recognise(self, nodes: Iterable[Node]) -> tuple[dict[int, int], list[int]]:
        """Who is who.

        Returns:
            The node of each client that is connected, and the nodes whose keys are not on the roster.
        """
        members, known, strangers = self.by_key(), {}, []
        for node in nodes:
            member = members.get(node.public_key)
            if member is None:
                strangers.append(node.node_id)
            else:
                known[member.client] = node.node_id
        return known, strangers


def in_pem(key: str) -> bytes:
    """A public key in the form in which Flower's server keeps it.

    Raises:
        InputError: it is no public key, or not one on an elliptic curve, which Flower asks for.
    """
    try:
        public = load_ssh_public_key(key.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError(f"{key[:40]!r} is not a public key of OpenSSH: {error}") from error
    if not isinstance(public, EllipticCurvePublicKey):
        raise InputError(f"{key[:40]!r} is not a key on an elliptic curve, such as ecdsa-sha2-nistp384")
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
