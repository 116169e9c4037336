"""Certificates for tests: an authority of our own, and what it signs."""

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["authority", "keystore"]


def authority(folder, name):
    """A certificate authority; returns (key, certificate) and writes NAME.pem."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = _sign(subject, subject, key.public_key(), key, x509.BasicConstraints(ca=True, path_length=0), None)
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return key, certificate


def _sign(subject, issuer, public, signer, constraints, names):
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(constraints, critical=True)
    )
    if names is not None:
        builder = builder.add_extension(names, critical=False)
    return builder.sign(signer, hashes.SHA256())


def keystore(folder, signer, issuer, name="broker", host="localhost"):
    """Key and certificate of a server of 127.0.0.1 and `host`, as one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))] if host == "localhost" else []
    names = x509.SubjectAlternativeName([x509.DNSName(host), *addresses])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1" if host == "localhost" else host)])
    certificate = _sign(
        subject, issuer.subject, key.public_key(), signer, x509.BasicConstraints(ca=False, path_length=None), names
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / f"{name}.pem"
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path
