"""A certificate authority of our own and a certificate for localhost, made by OpenSSL."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def make_certificate(folder: Path) -> tuple[Path, tuple[Path, Path]]:
    """Return the authority's certificate, and certificate and key of a server called localhost. Skips where openssl is missing."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make certificates")
    authority, authority_key, key, request, certificate, names = (
        folder / name for name in ("ca.pem", "ca.key", "server.key", "server.csr", "server.pem", "names")
    )
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names.write_text("subjectAltName=DNS:localhost\n")
    for arguments in (
        ["req", "-x509", *new_key, "-keyout", authority_key, "-out", authority, "-days", "2", "-subj", "/CN=test authority",
         "-addext", "keyUsage=critical,keyCertSign"],
        ["req", *new_key, "-keyout", key, "-out", request, "-subj", "/CN=localhost"],
        ["x509", "-req", "-in", request, "-CA", authority, "-CAkey", authority_key, "-CAcreateserial", "-out", certificate, "-days", "2",
         "-extfile", names],
    ):  # fmt: skip
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
    return authority, (certificate, key)
