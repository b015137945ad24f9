"""The TLS contexts of a server: made from its options or given by a program, and remade from the files on request.

Thread: event loop. The files are read at the start and at a reload; they are small.

Source: RFC 7301 (ALPN); RFC 9325 (recommendations for TLS 1.2 and 1.3).
"""

from __future__ import annotations

import logging
import os
import pkgutil
import ssl
from collections.abc import Callable

from aiowsgi.config import Config
from aiowsgi.errors import StartupError

__all__ = ["ContextHook", "TLSContexts", "has_tls", "tls_contexts"]

_logger = logging.getLogger("aiowsgi.error")

#: Given the context that the options describe; returns the one to use, which may be the same, changed.
ContextHook = Callable[[ssl.SSLContext], ssl.SSLContext]

_VERIFY_MODES = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_VERIFY_MODES |= {str(mode.value): mode for mode in _VERIFY_MODES.values()}  # as gunicorn has them
_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


def has_tls(config: Config) -> bool:
    """Whether the options ask for TLS."""
    return config.ssl_certfile is not None or config.ssl_context is not None


def tls_contexts(config: Config, given: ssl.SSLContext | ContextHook | None) -> TLSContexts | None:
    """Return the contexts of a server; ``None`` for one that speaks no TLS.

    Args:
        config: names the files.
        given: a context that a program has made and looks after itself; or a hook.

    Raises:
        StartupError: naming the option and the file, where the context cannot be made.
    """
    if given is not None or has_tls(config):
        return TLSContexts(config, given)
    unmet = [name for name in ("ssl_ca_certs", "ssl_ciphers") if getattr(config, name) is not None]
    if _VERIFY_MODES[config.ssl_cert_reqs] is not ssl.CERT_NONE:
        unmet.append("ssl_cert_reqs")
    for name in unmet:
        raise StartupError(f"{name}={getattr(config, name)}: needs ssl_certfile; without it there is no TLS")
    return None


class TLSContexts:
    """The context of each new connection; see :func:`tls_contexts`."""

    def __init__(self, config: Config, given: ssl.SSLContext | ContextHook | None) -> None:
        self._config = config
        self._given = given
        self._current = self._make()

    @property
    def current(self) -> ssl.SSLContext:
        """The context for a connection that begins now."""
        return self._current

    def reload(self) -> bool:
        """Read the files again, for new connections; return whether they could be used.

        Open connections keep what they began with. A context that a program gave is for that program to change.
        """
        try:
            self._current = self._make()
        except StartupError as error:
            _logger.error("the TLS certificate stays as it was: %s", error)
            return False
        if not isinstance(self._given, ssl.SSLContext):
            _logger.info("the TLS certificate was read again")
        return True

    def _make(self) -> ssl.SSLContext:
        given = self._given
        if isinstance(given, ssl.SSLContext):
            return given
        context = _make_context(self._config)
        if given is None and self._config.ssl_context is not None:
            given = _named_hook(self._config.ssl_context)
        if given is None:
            return context
        try:
            made = given(context)
        except Exception as error:  # whatever a deployer's code raises
            raise StartupError(f"ssl_context: the hook failed: {type(error).__name__}: {error}") from error
        if not isinstance(made, ssl.SSLContext):
            raise StartupError(f"ssl_context: the hook must return an ssl.SSLContext, not {type(made).__name__}")
        return made


def _named_hook(name: str) -> ContextHook:
    try:
        hook = pkgutil.resolve_name(name)
    except (ValueError, ImportError, AttributeError) as error:
        raise StartupError(f"ssl_context={name}: must be module:callable ({error})") from error
    if not callable(hook):
        raise StartupError(f"ssl_context={name}: {type(hook).__name__} is not callable")
    found: ContextHook = hook
    return found


def _make_context(config: Config) -> ssl.SSLContext:
    """Make the context that the options describe.

    Raises:
        StartupError: naming the option and the file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[config.ssl_min_version]
    # Nothing here needs renegotiation, and each one costs the server far more than the client.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    if config.ssl_ciphers is not None:
        try:
            context.set_ciphers(config.ssl_ciphers)
        except ssl.SSLError as error:
            raise StartupError(f"ssl_ciphers={config.ssl_ciphers}: OpenSSL knows none of them") from error
    if config.ssl_certfile is not None:
        _load_certificate(context, config)
    verify_mode = _VERIFY_MODES[config.ssl_cert_reqs]
    if config.ssl_ca_certs is not None:
        _load_authorities(context, config.ssl_ca_certs)
    elif verify_mode is not ssl.CERT_NONE:
        raise StartupError(f"ssl_cert_reqs={config.ssl_cert_reqs}: needs ssl_ca_certs")
    context.verify_mode = verify_mode
    return context


def _load_certificate(context: ssl.SSLContext, config: Config) -> None:
    certificate_path = str(config.ssl_certfile)
    certificate = f"ssl_certfile={certificate_path}"
    key_path = config.ssl_keyfile or certificate_path
    key = f"ssl_keyfile={key_path}" if config.ssl_keyfile else certificate
    if b"-----BEGIN CERTIFICATE-----" not in _read(certificate, certificate_path):
        raise StartupError(f"{certificate}: holds no certificate in PEM form")
    if b"PRIVATE KEY-----" not in _read(key, key_path):
        raise StartupError(f"{key}: holds no private key in PEM form")

    def password() -> str:
        # Without this, OpenSSL would ask on the terminal.
        if config.ssl_keyfile_password is None:
            raise StartupError(f"{key}: the key is encrypted; ssl_keyfile_password is needed")
        return config.ssl_keyfile_password

    try:
        context.load_cert_chain(certificate_path, key_path, password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise StartupError(f"{key}: is not the key of the certificate in {certificate_path}") from error
        if config.ssl_keyfile_password is not None and error.reason in (None, "BAD_DECRYPT", "BAD_PASSWORD_READ"):
            raise StartupError(f"{key}: cannot be read with ssl_keyfile_password") from error
        raise StartupError(f"{certificate}, {key}: {error.reason or error}") from error
    except (OSError, ValueError) as error:
        raise StartupError(f"{certificate}, {key}: {error}") from error


def _load_authorities(context: ssl.SSLContext, path: str) -> None:
    name = f"ssl_ca_certs={path}"
    if os.path.isdir(path):
        context.load_verify_locations(capath=path)
        return
    _read(name, path)
    try:
        context.load_verify_locations(cafile=path)
    except (ssl.SSLError, OSError) as error:
        raise StartupError(f"{name}: holds no certificate in PEM form") from error


def _read(name: str, path: str) -> bytes:
    """Read a file that is for OpenSSL, which reports neither which file failed nor why."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise StartupError(f"{name}: {error.strerror or error}") from error
