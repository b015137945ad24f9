"""Certificates of an authority that nobody else knows, in files, and the client's side of TLS."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from tests.raw import RawClient

PATIENCE = 15.0


class Certificates:
    """An authority, and a folder for what it issues."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.ca_path = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(self.ca_path)
        self.client = self.authority.issue_cert(
            "client@example.org", common_name='Jo, "the" client', organization_name="Örg"
        )

    def write(self, name: str, *identities: str) -> dict[str, Any]:
        """Issue a certificate for a server; return the options that name its files, which may exist already."""
        issued = self.authority.issue_cert(*(identities or ("127.0.0.1", "localhost")))
        certificate_path, key_path = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate_path.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key_path)
        return {"ssl_certfile": str(certificate_path), "ssl_keyfile": str(key_path)}

    def client_context(self, *, certificate: bool = False, **attributes: Any) -> ssl.SSLContext:
        """Return a client's context that trusts the authority; with a certificate of the client's own, if asked."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if certificate:
            self.client.configure_cert(context)
        for name, value in attributes.items():
            setattr(context, name, value)
        return context

    def connect(
        self, port: int, context: ssl.SSLContext | None = None, server_name: str = "127.0.0.1", size: int = 0
    ) -> RawClient:
        """Connect to a port and shake hands; with a receive buffer of the kernel's of a certain size, if asked."""
        sock = socket.socket()
        try:
            if size:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
            sock.settimeout(PATIENCE)
            sock.connect(("127.0.0.1", port))
            return RawClient((context or self.client_context()).wrap_socket(sock, server_hostname=server_name))
        except BaseException:
            sock.close()
            raise


def encrypt_key(path: Path, password: str) -> Path:
    """Write a copy of a key that cannot be read without a password."""
    key: Any = load_pem_private_key(path.read_bytes(), None)
    encrypted = path.with_suffix(".encrypted")
    encrypted.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password.encode()))
    )
    return encrypted


class RecordClient:
    """A client that has the records themselves in its hands.

    Args:
        sock: connected.
        context: of the client.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.socket = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")

    def records(self) -> bytes:
        """Return what there is to be sent."""
        return self._outgoing.read()

    def flush(self) -> None:
        self.socket.sendall(self.records())

    def receive(self) -> bool:
        """Take in what the server sends next; tell whether there was anything but its end."""
        data = self.socket.recv(64 * 1024)
        self._incoming.write(data)
        return bool(data)

    def shake_hands(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                assert self.receive()
            else:
                self.flush()
                return

    def send(self, data: bytes) -> None:
        self.tls.write(data)
        self.flush()

    def end(self) -> None:
        """Send the alert that says that nothing more comes, and go on reading."""
        with suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.flush()

    def read_all(self) -> bytes:
        """Read until the server's alert.

        Raises:
            AssertionError: the connection ended without it.
        """
        content = b""
        while True:
            try:
                data = self.tls.read(64 * 1024)
            except ssl.SSLWantReadError:
                assert self.receive(), content
                continue
            except ssl.SSLZeroReturnError:
                return content
            if not data:
                return content
            content += data


@contextmanager
def record_client(port: int, context: ssl.SSLContext) -> Iterator[RecordClient]:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        client = RecordClient(sock, context)
        client.shake_hands()
        yield client
