"""Certificates and keys, made afresh for each federation: nothing secret is ever kept in the repository.

The server shows a certificate, which a certificate authority has signed, so that clients know whom they
talk to. A client signs its requests with a private key, so that the server knows who asks. Private keys are
readable for their owner alone and never leave the folder in which they were made.
"""

import datetime
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

CURVE = ec.SECP384R1()
VALID = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Certificates:
    """Where a server's certificate lies.

    Attributes:
        authority: the certificate of who signed it; clients get this one.
        certificate, key: the server's own.
    """

    authority: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path) -> Certificates:
    """A certificate authority, and a certificate of it for a server on this machine, valid for a day.

    The authority's private key is forgotten at once: nothing more will be signed with it.
    """
    files = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    authority, server = ec.generate_private_key(CURVE), ec.generate_private_key(CURVE)
    issuer, here = named("Authority of a federation on loopback"), named("localhost")
    alone = x509.BasicConstraints(ca=False, path_length=None)
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    signer = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    ca = (
        certificate(issuer, issuer, authority.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(may(sign_certificates=True), critical=True)
        .add_extension(signer, critical=False)
        .sign(authority, hashes.SHA384())
    )
    own = (
        certificate(here, issuer, server.public_key())
        .add_extension(alone, critical=True)
        .add_extension(may(sign_certificates=False), critical=True)
        .add_extension(names, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(signer), critical=False)
        .sign(authority, hashes.SHA384())
    )
    folder.mkdir(parents=True, exist_ok=True)
    files.authority.write_bytes(ca.public_bytes(Encoding.PEM))
    files.certificate.write_bytes(own.public_bytes(Encoding.PEM))
    write_secret(files.key, server.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


def make_key(path: Path) -> str:
    """A node's key pair: the private key at `path`, the public one beside it, with `.pub`.

    Returns:
        The public key, in one line.
    """
    private = ec.generate_private_key(CURVE)
    public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_secret(path, private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.with_suffix(".pub").write_text(public + "\n", encoding="utf-8")
    return public


def write_secret(path: Path, content: bytes) -> None:
    """A file that from its first moment on its owner alone can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def named(common_name: str) -> x509.Name:
    """A name as certificates have it."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    """What all certificates here have in common."""
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + VALID)
    )


def may(sign_certificates: bool) -> x509.KeyUsage:
    """What a key is for: an authority's signs certificates, a server's proves who it is."""
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )
