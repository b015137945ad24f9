"""The TLS contexts that options describe, and what is said of those that describe none."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from aiowsgi.config import Config
from aiowsgi.errors import ConfigError, StartupError
from aiowsgi.server.tls_context import tls_contexts
from tests.certificates import Certificates, encrypt_key


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def files(certificates: Certificates) -> dict[str, Any]:
    return certificates.write("server")


def context_of(**options: Any) -> ssl.SSLContext:
    contexts = tls_contexts(Config(**options), None)
    assert contexts is not None
    return contexts.current


def test_nothing_said_is_no_tls() -> None:
    assert tls_contexts(Config(), None) is None


def test_defaults_are_those_of_today(files: dict[str, Any]) -> None:
    context = context_of(**files)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_NONE
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_COMPRESSION


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("none", ssl.CERT_NONE),
        ("optional", ssl.CERT_OPTIONAL),
        ("required", ssl.CERT_REQUIRED),
        ("0", ssl.CERT_NONE),
        ("1", ssl.CERT_OPTIONAL),
        ("2", ssl.CERT_REQUIRED),
    ],
)
def test_need_of_a_client_certificate_is_said_by_name_or_number(
    certificates: Certificates, files: dict[str, Any], text: str, mode: ssl.VerifyMode
) -> None:
    context = context_of(**files, ssl_ca_certs=str(certificates.ca_path), ssl_cert_reqs=text)
    assert context.verify_mode is mode
    assert len(context.get_ca_certs()) == 1


def test_authorities_may_be_a_folder(certificates: Certificates, files: dict[str, Any]) -> None:
    assert context_of(**files, ssl_ca_certs=str(certificates.folder)).cert_store_stats()["x509_ca"] == 0  # on demand


def test_certificate_and_key_may_be_one_file(files: dict[str, Any], tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(Path(files["ssl_keyfile"]).read_bytes() + Path(files["ssl_certfile"]).read_bytes())
    assert context_of(ssl_certfile=str(both))


def test_key_with_a_password_is_read_with_it(files: dict[str, Any]) -> None:
    key = encrypt_key(Path(files["ssl_keyfile"]), "open sesame")
    assert context_of(**files | {"ssl_keyfile": str(key)}, ssl_keyfile_password="open sesame")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ssl_certfile": "{folder}/missing"}, "ssl_certfile={folder}/missing: No such file or directory"),
        ({"ssl_certfile": "{folder}"}, "ssl_certfile={folder}: Is a directory"),
        ({"ssl_certfile": "{folder}/server.key"}, "ssl_certfile={folder}/server.key: holds no certificate"),
        (
            {"ssl_certfile": "{folder}/broken.pem"},
            "ssl_certfile={folder}/broken.pem, ssl_keyfile={folder}/server.key: ",
        ),
        ({"ssl_keyfile": "{folder}/missing"}, "ssl_keyfile={folder}/missing: No such file or directory"),
        ({"ssl_keyfile": "{folder}/server.pem"}, "ssl_keyfile={folder}/server.pem: holds no private key"),
        ({"ssl_keyfile": None}, "ssl_certfile={folder}/server.pem: holds no private key"),
        (
            {"ssl_keyfile": "{folder}/other.key"},
            "ssl_keyfile={folder}/other.key: is not the key of the certificate in ",
        ),
        ({"ssl_keyfile": "{folder}/server.encrypted"}, "the key is encrypted; ssl_keyfile_password is needed"),
        (
            {"ssl_keyfile": "{folder}/server.encrypted", "ssl_keyfile_password": "wrong"},
            "ssl_keyfile={folder}/server.encrypted: cannot be read with ssl_keyfile_password",
        ),
        ({"ssl_ca_certs": "{folder}/missing"}, "ssl_ca_certs={folder}/missing: No such file or directory"),
        ({"ssl_ca_certs": "{folder}/server.key"}, "ssl_ca_certs={folder}/server.key: holds no certificate"),
        ({"ssl_cert_reqs": "required"}, "ssl_cert_reqs=required: needs ssl_ca_certs"),
        ({"ssl_ciphers": "NO-SUCH"}, "ssl_ciphers=NO-SUCH: OpenSSL knows none of them"),
        ({"ssl_context": "no.such:hook"}, "ssl_context=no.such:hook: must be module:callable"),
        ({"ssl_context": "os:sep"}, "ssl_context=os:sep: str is not callable"),
        ({"ssl_context": "builtins:repr"}, "the hook must return an ssl.SSLContext, not str"),
        ({"ssl_context": "builtins:int"}, "ssl_context: the hook failed: TypeError"),
    ],
)
def test_file_that_is_of_no_use_is_named(
    certificates: Certificates, files: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    folder = certificates.folder
    certificates.write("other")
    encrypt_key(Path(files["ssl_keyfile"]), "open sesame")
    (folder / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\njunk\n-----END CERTIFICATE-----\n")
    options = files | {name: value and value.format(folder=folder) for name, value in change.items()}
    with pytest.raises(StartupError) as caught:
        context_of(**options)
    assert message.format(folder=folder) in str(caught.value)
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ssl_keyfile": "key.pem"}, "ssl_keyfile=key.pem: needs ssl_certfile"),
        ({"ssl_min_version": "SSLv3"}, "ssl_min_version=SSLv3: must be one of TLSv1.2, TLSv1.3"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(**options)
    assert message in caught.value.problems


@pytest.mark.parametrize(
    ("option", "value"),
    [("ssl_ca_certs", "text"), ("ssl_ciphers", "text"), ("ssl_cert_reqs", "optional"), ("ssl_cert_reqs", "2")],
)
def test_option_of_tls_without_tls_is_refused(option: str, value: str) -> None:
    with pytest.raises(StartupError, match=f"{option}={value}: needs ssl_certfile"):
        tls_contexts(Config(**{option: value}), None)


@pytest.mark.parametrize("value", ["none", "0"])
def test_certificates_of_clients_that_nobody_asks_for_need_no_tls(value: str) -> None:
    assert tls_contexts(Config(ssl_cert_reqs=value), None) is None


def test_hook_is_named_by_an_option(files: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def hook(context: ssl.SSLContext) -> ssl.SSLContext:
        seen.append(context)
        return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    module = ModuleType("a_module_with_a_hook")
    module.hook: Callable[..., object] = hook  # type: ignore[misc,attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    context = context_of(**files, ssl_context="a_module_with_a_hook:hook")
    assert seen
    assert context is not seen[0]
