"""Takes passwords out of any text before it becomes a name, a message or a line of a log.

What is free text cannot be parsed, so in doubt more is removed than had to be: an address may lose its host, never a password be kept.
Every delimiter is also known percent-encoded, however often, as in an address that is a parameter of another.
"""

from __future__ import annotations

import re

_HIDDEN = "***"
_AT, _COLON, _SLASH, _EQUALS = "(?:@|%(?:25)*40)", "(?::|%(?:25)*3a)", "(?:/|%(?:25)*2f)", r"(?:\s*=\s*|%(?:25)*3d)"
_BEGIN = rf"{_COLON}{_SLASH}{{2}}"

# In quotes, as of GStreamer's location="rtsp://user:a password@host", blanks belong to the password.
_QUOTED_USER = re.compile(rf"""((?P<quote>["'])[a-z0-9+.-]+{_BEGIN})(?:(?!(?P=quote)).)*{_AT}""", re.IGNORECASE)
# Up to the last @ of the word: passwords hold @ and /. A path with @ (as https://host/@user) is left, unless a colon comes before it.
_USER = re.compile(rf"({_BEGIN})(?:\S*{_COLON}\S*{_AT}|[^\s/]*{_AT})", re.IGNORECASE)
_PARAMETER = re.compile(
    rf"""((?:pass|pwd|psw|token|key|secret|auth|sig|cred|user-pw)[\w.-]*{_EQUALS})"""
    r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^\s&]*?(?=["']?(?:[\s&]|$)))""",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """Return `text` without the user and password of each URL, and with *** for the value of what looks like a credential.

    These are parameters whose name holds pass, pwd, token, key, secret, auth, sig or cred, of URLs or of GStreamer's elements.
    """
    text = _QUOTED_USER.sub(r"\1", text)
    text = _USER.sub(r"\1", text)
    return _PARAMETER.sub(rf"\1{_HIDDEN}", text)
