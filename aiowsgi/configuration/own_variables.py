"""The names in environ that are the server's own, which a deployer cannot use for variables.

Most would be silently overwritten. Those that only some requests have would remain and say what is not true: ``HTTPS``
on a connection without TLS, or a client's certificate although none was asked for. A test compares them with environs.

Thread: any.

Source: PEP 3333 "environ Variables"; RFC 3875 section 4.1; mod_ssl's "Environment Variables".
"""

from __future__ import annotations

__all__ = ["OWN_PREFIXES", "OWN_VARIABLES", "is_own_variable", "remedy_for"]

OWN_VARIABLES = frozenset(
    {
        "HTTPS",
        "PATH_INFO",
        "QUERY_STRING",
        "RAW_URI",
        "REMOTE_ADDR",
        "REMOTE_PORT",
        "REQUEST_METHOD",
        "REQUEST_URI",
        "SCRIPT_NAME",
        "SERVER_NAME",
        "SERVER_PORT",
        "SERVER_PROTOCOL",
        "SERVER_SOFTWARE",
        "SSL_CIPHER",
        "SSL_PROTOCOL",
    }
)

#: Of the request's fields, of the client's certificate, and of interfaces; ``asgi.`` under the adapter.
OWN_PREFIXES = ("CONTENT_", "HTTP_", "SSL_CLIENT_", "aiowsgi.", "asgi.", "waitress.", "wsgi.")

# These say that the client speaks TLS; a deployer may know that from the machine in front of the server.
_SCHEME_VARIABLES = frozenset({"HTTPS", "wsgi.url_scheme"})


def is_own_variable(name: str) -> bool:
    """Whether a name in environ is the server's to set."""
    return name in OWN_VARIABLES or name.startswith(OWN_PREFIXES)


def remedy_for(name: str) -> str:
    """Say what a deployer can do instead of giving such a name a value."""
    if name in _SCHEME_VARIABLES:
        return (
            "a proxy that ends TLS says so in X-Forwarded-Proto, if forwarded_allow_ips names it, or in the header of "
            "proxy_protocol v2; for one that says nothing, set wsgi.url_scheme in a WSGI middleware"
        )
    return "take another name"
