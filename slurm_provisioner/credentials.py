"""The two certificates of a launch: one for the supervisor, one for us, each trusting only the other.

Self-signed on elliptic curve keys and made anew for each job, so that there is no authority to guard and nothing
to revoke.
"""

from __future__ import annotations

import datetime
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from .folder import PrivateFolder

__all__ = ["Identity", "client_context", "make_identity"]

# A certificate outlives every job, and clocks of login and compute nodes may differ.
_LIFETIME = datetime.timedelta(days=3650)
_CLOCK_SKEW = datetime.timedelta(days=2)


@dataclass(frozen=True)
class Identity:
    """A certificate and its private key, both PEM."""

    certificate: str
    private_key: str

    def __repr__(self) -> str:
        return "Identity(…)"


def make_identity(name: str) -> Identity:
    """Make a key pair and its self-signed certificate."""
    # Imported here: listing kernelspecs must not pay for it.
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Identity(
        certificate=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        private_key=key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode(),
    )


def client_context(identity: Identity, peer_certificate: str) -> ssl.SSLContext:
    """Return a context of TLS with which we show `identity`, and accept exactly `peer_certificate`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the certificate itself is pinned; a node has many names
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=peer_certificate)
    # ssl reads a private key from a file only; the folder goes even if we are killed meanwhile
    folder = PrivateFolder()
    try:
        path = Path(folder.path, "key.pem")
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(identity.private_key + identity.certificate)
        context.load_cert_chain(path)
    finally:
        folder.remove()
    return context
