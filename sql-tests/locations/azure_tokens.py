"""Shared access signatures for the account of azurite, made as Azure Storage documents them for its version 2022-11-02.

`serve.py` makes the container with a token of the account, and hands tokens of the container to the trials.
"""

import base64
import hashlib
import hmac
from datetime import datetime, timedelta, timezone
from urllib.parse import quote

ACCOUNT = "devstoreaccount1"
# every azurite has this key; it is no secret, but stands for one
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
VERSION = "2022-11-02"


def instant(**distance):
    """A time so far from now."""
    return (datetime.now(timezone.utc) + timedelta(**distance)).strftime("%Y-%m-%dT%H:%M:%SZ")


def container_token(container, sp, se):
    """A token for one container, with the permissions `sp` until `se`."""
    resource = f"/blob/{ACCOUNT}/{container}"
    # permissions, start, expiry, resource, identifier, address, protocol, version, kind, snapshot, encryption scope,
    # and five headers of the answer
    signature = sign([sp, "", se, resource, "", "", "", VERSION, "c", "", "", "", "", "", "", ""])
    return f"sv={VERSION}&sr=c&sp={sp}&se={quote(se)}&sig={quote(signature, safe='')}"


def account_token(se):
    """A token that may make containers."""
    # account, permissions, services, resource types, start, expiry, address, protocol, version, encryption scope, and an end
    signature = sign([ACCOUNT, "rwdlac", "b", "sco", "", se, "", "", VERSION, "", ""])
    return f"sv={VERSION}&ss=b&srt=sco&sp=rwdlac&se={quote(se)}&sig={quote(signature, safe='')}"


def signatures(token):
    """The secret of a token, as it is written there and decoded."""
    written = token.partition("sig=")[2]
    return [written, base64_of(written)]


def base64_of(written):
    return written.replace("%2B", "+").replace("%2F", "/").replace("%3D", "=")


def sign(fields):
    digest = hmac.new(base64.b64decode(KEY), "\n".join(fields).encode(), hashlib.sha256)
    return base64.b64encode(digest.digest()).decode()
