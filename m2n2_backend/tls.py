"""Which certificate authorities are trusted: one answer for every connection that leaves this machine."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from m2n2_backend.errors import SettingsError

VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Each may name a file of certificates (PEM), or a folder of them as OpenSSL lays it out; all that are set count."""

FOLDERS = "SSL_CERT_DIR"
"""May name several such folders, separated as in ``PATH``."""

_UNKNOWN_AUTHORITY = (18, 19, 20, 21)  # X509_V_ERR_… of openssl/x509_vfy.h
_EXPIRED = (9, 10)
_OTHER_NAME = (62, 64)


def tls_context() -> ssl.SSLContext:
    """What every https client of this package checks certificates with.

    The authorities are those that the variables of the environment name, and certifi's where no variable is set.

    Raises:
        SettingsError: A variable names a file or folder that is missing or holds no certificate.
    """
    named = _named()
    if not named:
        return httpx.create_ssl_context(trust_env=False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for path, variable in named.items():
        try:
            if path.is_dir():
                context.load_verify_locations(capath=path)
            else:
                context.load_verify_locations(cafile=path)
        except OSError as error:  # also ssl.SSLError
            cause = "holds no certificate in PEM format" if isinstance(error, ssl.SSLError) else error.strerror
            raise SettingsError(f"{variable} names {path}: {cause}", _cure(variable)) from error
    return context


@contextmanager
def trusted_by_libraries() -> Iterator[None]:
    """Let other libraries trust what :func:`tls_context` does, if they make their client within the block.

    The hub's client reads ``SSL_CERT_FILE`` or ``REQUESTS_CA_BUNDLE``, depending on its release: both name one file
    with all certificates meanwhile.

    Raises:
        SettingsError: As for :func:`tls_context`.
    """
    if not _named():
        yield
        return
    tls_context()
    before = {name: os.environ.get(name) for name in VARIABLES}
    with tempfile.NamedTemporaryFile("wb", suffix=".pem") as together:
        together.write(b"\n".join(path.read_bytes() for path in _files()))
        together.flush()
        os.environ.update(dict.fromkeys(VARIABLES, together.name))
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def advice(error: BaseException | None) -> str:
    """What to do about an error of a connection whose cause is a certificate; empty for other causes."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    if error is None:
        return ""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return "the server does not speak TLS there: is its address one of http://?" if _is_plain(error) else ""
    if error.verify_code in _UNKNOWN_AUTHORITY:
        return (
            "the server's certificate is of an authority that is not trusted here: set SSL_CERT_FILE to a file with "
            "the authority's certificate (PEM)"
        )
    if error.verify_code in _EXPIRED:
        return "the server's certificate is not valid today: renew it, or set this machine's clock"
    if error.verify_code in _OTHER_NAME:
        return "the server's certificate is for another name: use the address that it names"
    return ""


def _named() -> dict[Path, str]:
    """Each file and folder that a variable names, and the variable.

    Raises:
        SettingsError: One of them does not exist.
    """
    named = {Path(value): name for name in reversed(VARIABLES) if (value := os.environ.get(name))}
    for path, name in named.items():
        if not path.exists():
            raise SettingsError(f"{name} names {path}, which does not exist", _cure(name))
    folders = [Path(one) for one in os.environ.get(FOLDERS, "").split(os.pathsep) if one]
    there = [path for path in folders if path.is_dir()]
    if folders and not there and not named:
        raise SettingsError(f"{FOLDERS} names {folders[0]}, which is not a folder", _cure(FOLDERS))
    return named | dict.fromkeys(there, FOLDERS)


def _files() -> Iterator[Path]:
    """The files of certificates, also those in the folders, whose names OpenSSL makes of a hash."""
    for path in _named():
        yield from sorted(path.glob("[0-9a-f]*.[0-9]")) if path.is_dir() else [path]


def _cure(variable: str) -> str:
    what = "a folder" if variable == FOLDERS else "a file"
    return f"set it to {what} with your authority's certificate (PEM), or unset it"


def _is_plain(error: ssl.SSLError) -> bool:
    return error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
