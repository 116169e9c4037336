"""JSON Web Tokens of an issuer: what is good, and the table of what is not. Tokens are made by hand, with cryptography alone."""

import base64
import hashlib
import hmac
import json
import time

import httpx
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from service.access import oidc
from service.access.oidc import Issuer
from service.errors import IssuerUnavailable, SettingsError, Unauthenticated

ISSUER, AUDIENCE = "https://login.example.org/realm", "alertprod-api"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
STRANGER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value, size=None):
    return b64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def public(key, kid):
    numbers = key.public_key().public_numbers()
    if isinstance(key, rsa.RSAPrivateKey):
        return {"kty": "RSA", "kid": kid, "use": "sig", "n": number(numbers.n), "e": number(numbers.e)}
    return {"kty": "EC", "kid": kid, "crv": "P-256", "x": number(numbers.x, 32), "y": number(numbers.y, 32)}


KEYS = {
    "keys": [
        public(RSA, "r"),
        public(EC, "e"),
        {"kty": "oct", "kid": "o", "k": b64(b"shared-secret-of-32-bytes-length")},
    ]
}


def sign(key, alg, text):
    if alg == "none":
        return b""
    if alg == "HS256":
        return hmac.new(key, text, hashlib.sha256).digest()
    if alg == "ES256":
        r, s = utils.decode_dss_signature(key.sign(text, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    if alg == "PS256":
        return key.sign(text, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    return key.sign(text, padding.PKCS1v15(), hashes.SHA256())


def token(key=RSA, alg="RS256", kid="r", head=None, **change):
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ann",
        "exp": time.time() + 300,
        "scope": "openid alertprod:read alertprod:nosuch",
    }
    claims = {k: v for k, v in {**claims, **change}.items() if v is not ...}
    header = {k: v for k, v in {"alg": alg, "kid": kid, **(head or {})}.items() if v is not ...}
    text = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}"
    return f"{text}.{b64(sign(key, alg, text.encode()))}"


class Fake:
    """Answers of an issuer."""

    def __init__(self, keys=KEYS, issuer=ISSUER):
        self.keys, self.asked, self.down = keys, [], False
        self.discovery = {"issuer": issuer, "jwks_uri": f"{ISSUER}/keys"}

    def __call__(self, request):
        self.asked.append(request.url.path)
        if self.down:
            raise httpx.ConnectTimeout("no answer")
        return httpx.Response(200, json=self.keys if request.url.path.endswith("/keys") else self.discovery)


def issuer(fake=None, **more):
    return Issuer(ISSUER, AUDIENCE, transport=httpx.MockTransport(fake or Fake()), **more)


@pytest.mark.parametrize(("key", "alg", "kid"), [(RSA, "RS256", "r"), (RSA, "PS256", "r"), (EC, "ES256", "e")])
def test_what_the_issuer_signed_for_us_is_good(key, alg, kid):
    found = issuer().principal(token(key, alg, kid))
    assert (found.name, found.scopes, found.limited) == ("oidc:ann", {"read"}, True)
    assert issuer().principal(token(key, alg, kid, aud=["x", AUDIENCE], scope=..., scp=["alertprod:admin"])).scopes == {
        "admin"
    }
    assert issuer().principal(token(key, alg, kid, scope="read admin")).scopes == frozenset()  # not ours


FORGED = {
    "no algorithm": {"alg": "none"}, "no algorithm in capitals": {"head": {"alg": "None"}}, "a public key as a secret": {"key": PEM, "alg": "HS256"},
    "a shared secret": {"key": b"shared-secret-of-32-bytes-length", "alg": "HS256", "kid": "o"}, "a key of a stranger": {"key": STRANGER},
    "a key of another kind": {"key": EC, "alg": "ES256", "kid": "r"}, "an unknown key": {"kid": "nosuch"}, "no key": {"kid": ...},
    "a key that it brings along": {"key": STRANGER, "kid": "x", "head": {"jwk": public(STRANGER, "x"), "jku": "https://evil/keys"}},
    "another issuer": {"iss": "https://evil.example"}, "no issuer": {"iss": ...}, "another service": {"aud": "other"}, "no service": {"aud": ...},
    "a part of our name": {"aud": AUDIENCE[:-1]}, "expired": {"exp": time.time() - 60}, "no end": {"exp": ...}, "an end in words": {"exp": "never"},
    "an end that is true": {"exp": True}, "not yet": {"nbf": time.time() + 86400}, "nobody": {"sub": ...}, "a line break": {"sub": "a\nb"},
    "critical extension": {"head": {"crit": ["x"], "x": 1}},
}  # fmt: skip


@pytest.mark.parametrize("what", FORGED)
def test_what_is_forged_or_for_others_is_refused(what):
    with pytest.raises(Unauthenticated):
        issuer().principal(token(**FORGED[what]))


def test_what_is_changed_or_no_token_is_refused():
    head, body, signature = token().split(".")
    other = b64(json.dumps({"iss": ISSUER, "aud": AUDIENCE, "sub": "root", "exp": time.time() + 99}).encode())
    for text in (f"{head}.{other}.{signature}", f"{head}.{body}.", f"{head}.{body}.{signature[:-8]}AAAAAAAA", "..", "a.b.c", "[].e30.x",
                 f"{b64(b'[1]')}.{body}.{signature}", f"{b64(b'[' * 99999)}.{body}.x"):  # fmt: skip
        with pytest.raises(Unauthenticated):
            issuer().principal(text)


def test_keys_are_fetched_once_and_again_for_a_new_one_but_not_at_every_token(monkeypatch):
    fake = Fake()
    known = issuer(fake)
    for _ in range(3):
        known.principal(token())
    assert fake.asked == ["/realm/.well-known/openid-configuration", "/realm/keys"]
    for _ in range(5):
        with pytest.raises(Unauthenticated, match="does not have"):
            known.principal(token(STRANGER, kid="new"))
    assert len(fake.asked) == 2
    monkeypatch.setattr(oidc, "PAUSE_S", -1.0)
    fake.keys = {"keys": [public(STRANGER, "new")]}
    assert known.principal(token(STRANGER, kid="new")).name == "oidc:ann"
    with pytest.raises(Unauthenticated):
        known.principal(token())  # its key was taken back


def test_an_issuer_that_is_away_costs_nobody_whose_key_is_known(monkeypatch):
    fake = Fake()
    known = issuer(fake)
    known.principal(token())
    fake.down = True
    monkeypatch.setattr(oidc, "KEPT_S", -1.0)
    monkeypatch.setattr(oidc, "PAUSE_S", -1.0)
    assert known.principal(token()).name == "oidc:ann"
    with pytest.raises(IssuerUnavailable) as caught:
        issuer(fake).principal(token())
    assert caught.value.retriable


@pytest.mark.parametrize("fake", [Fake(issuer="https://other"), Fake(keys=[]), Fake(keys={"keys": "x"}), Fake(keys={"keys": [{"kty": "RSA", "kid": "r"}]}),
                                  Fake(keys={"keys": [], "pad": "x" * 300_000})])  # fmt: skip
def test_answers_of_an_issuer_that_make_no_sense(fake):
    with pytest.raises((IssuerUnavailable, Unauthenticated)):
        issuer(fake).principal(token())


def test_settings_that_would_let_others_in_are_refused():
    for address, audience, keys in (
        ("http://login.example.org", "x", ""),
        (ISSUER, "", ""),
        (ISSUER, "x", "http://evil/keys"),
        ("file:///x", "x", ""),
    ):
        with pytest.raises(SettingsError, match="ALERTPROD_OIDC"):
            Issuer(address, audience, keys)
    Issuer("http://127.0.0.1:8081/realm", "x")
