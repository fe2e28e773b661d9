"""Redaction of secrets: credentials in URLs, tokens, secret environment values, and the user's home folder.

Records, logs and reports travel between people. What goes into them passes `redact` first.
"""

from __future__ import annotations

import functools
import getpass
import os
import re
from pathlib import Path
from typing import Any

#: What stands in place of a secret.
HIDDEN = "***"
#: Names of environment variables, and of keys in text, whose values are secrets.
_SECRET_NAME = r"(?:TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|SIGNATURE)"
#: Shorter environment values are words like "yes" that occur everywhere.
_SHORTEST_VALUE = 8
_USER_INFO = re.compile(r"(?P<scheme>[a-zA-Z][\w+.-]*://)[^/\s?#'\"@]*@")
_QUERY = re.compile(r"(?P<url>[a-zA-Z][\w+.-]*://[^\s?#'\"]*)(?P<query>[?#][^\s'\"]*)")
_QUERY_VALUE = re.compile(r"=[^&;#\s'\"]*")
_TOKENS = re.compile(
    r"\b(?:hf_\w{16,}|gh[opsu]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|sk-[\w-]{20,}|xox[abp]-[\w-]{10,}"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{30,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+)|(?<=Bearer )[\w.~+/-]{8,}=*"
)
_ASSIGNED = re.compile(
    rf"(?P<key>[\w.-]*{_SECRET_NAME}[\w.-]*\s*[=:]\s*)(?P<value>[^\s,;'\"&]+)", re.IGNORECASE
)


def redact(text: str) -> str:
    """`text` without user names and passwords in URLs, values of their queries, tokens of known services,
    values of secret environment variables, and with `~` in place of the home folder."""
    for value in _environment_secrets():
        text = text.replace(value, HIDDEN)
    text = _USER_INFO.sub(rf"\g<scheme>{HIDDEN}@", text)
    text = _QUERY.sub(lambda m: m["url"] + _QUERY_VALUE.sub(f"={HIDDEN}", m["query"]), text)
    text = _ASSIGNED.sub(rf"\g<key>{HIDDEN}", _TOKENS.sub(HIDDEN, text))
    return redact_home(text)


def redact_home(text: str) -> str:
    """`text` with `~` in place of the user's home folder, and "user" for the user's name within paths."""
    home, user = _home_and_user()
    if home:
        text = re.sub(rf"{re.escape(home)}(?=[/\s'\"]|$)", "~", text)
    if user:
        text = re.sub(rf"(?<=/){re.escape(user)}(?=[/\s'\"]|$)", "user", text)
    return text


def redact_all(value: Any) -> Any:
    """The same value with `redact` applied to every string in it; mappings, lists and tuples are walked."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redact_all(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(item) for item in value]
    return value


def _environment_secrets() -> list[str]:
    """Values of environment variables that are secret by their name, longest first."""
    named = re.compile(_SECRET_NAME, re.IGNORECASE)
    values = {v for k, v in os.environ.items() if len(v) >= _SHORTEST_VALUE and named.search(k)}
    return sorted((v for v in values if not Path(v).exists()), key=len, reverse=True)


@functools.cache
def _home_and_user() -> tuple[str, str]:
    """Home folder and user name; empty where they say nothing about a person."""
    home = os.path.expanduser("~")  # noqa: PTH111  (Path.home() raises where there is none)
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):
        user = ""
    plain = home in ("~", "/", "") or not home.startswith("/")
    return "" if plain else home.rstrip("/"), "" if user == "root" or len(user) < 3 else user
