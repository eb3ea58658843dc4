"""Takes passwords out of any text before it becomes a name, a message or a line of a log.

What is free text cannot be parsed, so in doubt more is removed than had to be: an address may lose its host, never a password be kept.
Every delimiter is also known percent-encoded, however often, as in an address that is a parameter of another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_HIDDEN = "***"
_COLON, _SLASH = "(?::|%(?:25)*3a)", "(?:/|%(?:25)*2f)"
_BEGIN, _COLONS, _SLASHES = (re.compile(pattern, re.IGNORECASE) for pattern in (rf"{_COLON}{_SLASH}{{2}}", _COLON, _SLASH))
_AT = re.compile("@|%(?:25)*40")
# In quotes, as of GStreamer's location="rtsp://user:a password@host", blanks belong to the password.
_QUOTED = re.compile(rf"""(?P<quote>["'])(?=[\w+.-]{{1,20}}{_COLON}{_SLASH}{{2}})(?:(?!(?P=quote)).)*""", re.IGNORECASE | re.DOTALL)
_PARAMETER = re.compile(
    r"(?:pas|pwd|psw|token|key|secret|auth|sig|cred|user-pw)[\w.-]{0,40}(?:\s{0,9}=\s{0,9}|%(?:25)*3d)"
    r"""(?P<value>"(?:\\.|[^"\\])*(?:"|\\?\Z)|'(?:\\.|[^'\\])*(?:'|\\?\Z)|[^\s&]*?(?=["']?(?:[\s&]|\Z)))""",
    re.IGNORECASE | re.DOTALL,
)


def redacted(text: str) -> str:
    """Return `text` without the user and password of each URL, and with *** for the value of what looks like a credential.

    These are parameters whose name holds pas, pwd, token, key, secret, auth, sig or cred, of URLs or of GStreamer's elements.
    """
    spans = [(begin, end, "") for begin, end in _users(text)]
    spans += [(*match.span("value"), _HIDDEN) for match in _PARAMETER.finditer(text)]
    kept, at = [], 0
    for begin, end, instead in sorted(spans):  # they overlap where a parameter holds @, or a password an equals sign
        kept += [text[at:begin], instead]
        at = max(at, end)
    return "".join([*kept, text[at:]])


def _users(text: str) -> Iterator[tuple[int, int]]:
    """Yield where users and passwords stand: between :// and the last @ of the word, since passwords hold @, / and ://."""
    for word in [*re.finditer(r"\S+", text), *_QUOTED.finditer(text)]:
        begin = _BEGIN.search(text, *word.span())
        if begin is None:
            continue
        ends = [at.end() for at in _AT.finditer(text, begin.end(), word.end())]
        # Without a colon there is no password, and what follows a slash is a path, as of https://host/@user.
        if ends and not _COLONS.search(text, begin.end(), ends[-1]) and (slash := _SLASHES.search(text, begin.end())):
            ends = [end for end in ends if end <= slash.start()]
        if ends:
            yield begin.end(), ends[-1]
