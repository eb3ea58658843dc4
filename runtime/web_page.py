"""The web page and its login form: one text each, with the hashes by which a browser accepts their script and style and no others."""

from __future__ import annotations

import base64
import hashlib
from html import escape

from retinanet_edge.runtime.web_controls import CONTROL_SCRIPT
from retinanet_edge.runtime.web_script import LIVE_SCRIPT
from retinanet_edge.runtime.web_style import STYLE

_SCRIPT = f'\n"use strict";{LIVE_SCRIPT}{CONTROL_SCRIPT}'

_HEAD = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>retinanet-edge</title>
<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect x='2' y='3' width='12'
 height='10' fill='none' stroke='%231668c7' stroke-width='2'/%3E%3C/svg%3E">
<style>{STYLE}</style>
</head>
"""

PAGE = f"""{_HEAD}<body>
<header><h1>retinanet-edge</h1><span id="health" role="status"><span class="pill">connecting</span></span>
<span id="model" class="soft small"></span></header>
<noscript><p class="note">This page needs JavaScript. The bare picture: <a href="/stream.mjpg">/stream.mjpg</a></p></noscript>
<p id="lost" class="note bad" role="alert" hidden>The stream does not answer. Trying again each second.</p>
<main class="columns">
<div>
<section class="live" aria-label="Live picture">
<div id="screen" class="screen"><canvas id="picture" width="640" height="360" role="img" aria-label="live picture"></canvas>
<p id="trouble" role="status" hidden></p></div>
<p class="caption"><b id="camera-name"></b><span id="shown-rate" class="soft small">waiting for a picture</span></p>
<div id="choice" class="choice" role="group" aria-label="Cameras" hidden></div>
</section>
<div id="tiles" class="tiles"></div>
<section><h2>Latency of the last frames</h2>
<svg id="chart" viewBox="0 0 640 190" role="img" aria-label="latency"></svg>
<p class="legend small soft"><span class="p50">median</span><span class="p95">95th percentile</span></p></section>
<section><h2>Stages since the start</h2>
<table><thead><tr><th scope="col">stage</th><th scope="col">p50</th><th scope="col">p95</th><th scope="col">p99</th></tr></thead>
<tbody id="stages"></tbody></table></section>
</div>
<div>
<section><h2>Thresholds and classes</h2>
<p class="soft small">A change holds for every output, from the next frame on.</p>
<div class="all"><label for="threshold">Threshold</label><input id="threshold" type="range" min="0" max="1" step="0.01">
<output id="threshold-value" for="threshold"></output></div>
<div class="bar"><input id="search" type="search" placeholder="Find a class" aria-label="Find a class" hidden>
<button id="all" type="button">Show all classes</button></div>
<p id="warnings" class="note small" role="status" hidden></p>
<ul id="classes" class="classes" aria-label="Classes: detections so far, and the least score of each"></ul></section>
<section><h2>Cameras</h2><ul id="cameras" class="states"></ul></section>
<section><h2>Sinks</h2><p id="no-sinks" class="soft small">none</p><ul id="sinks" class="states"></ul></section>
</div>
</main>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def login_page(message: str = "") -> str:
    """Return the form that asks for the token, with a message where the last one was wrong."""
    told = f'<p class="error" role="alert">{escape(message)}</p>' if message else ""
    return f"""{_HEAD}<body>
<main class="login"><section><h1>retinanet-edge</h1>
<form method="post" action="/login"><label for="token">Token of this stream</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>{told}
<button type="submit">Show the stream</button></form></section></main>
</body>
</html>
"""


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; script-src {_hash(_SCRIPT)}; style-src {_hash(STYLE)}; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
