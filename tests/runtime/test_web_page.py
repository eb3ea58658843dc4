"""The page as a text, and as Chromium shows it: with live pictures, on a phone, when things go wrong, behind a token."""

import asyncio
import base64
import hashlib
import re
from html.parser import HTMLParser

from retinanet_edge.runtime.camera import CameraState
from retinanet_edge.runtime.web_page import CONTENT_SECURITY_POLICY, PAGE, login_page
from retinanet_edge.runtime.web_server import WebServer
from tests.runtime.chromium import browser
from tests.runtime.fake_control import camera, result, sink
from tests.runtime.web_site import TOKEN, producing, serving

PICTURE_SHOWN = "/shown/.test(document.getElementById('shown-rate')?.textContent)"
TEXT = "document.getElementById('{}').textContent"


class Tags(HTMLParser):
    """All tags of a page, as (name, attributes)."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_the_policy_names_exactly_the_pages_script_and_style():
    for name, directive in (("script", "script-src"), ("style", "style-src")):
        (content,) = re.findall(rf"<{name}>(.*?)</{name}>", PAGE, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in CONTENT_SECURITY_POLICY


def test_nothing_inline_and_nothing_from_elsewhere():
    for page in (PAGE, login_page("wrong")):
        for _, attributes in Tags(page).found:
            assert not [name for name in attributes if name.startswith("on") or name == "style"]
            assert all(attributes.get(name, "").startswith(("/", "data:", "")) for name in ("src", "href", "action"))
            assert not re.match(r"\w+://|//", attributes.get("src", "") or attributes.get("href", ""))
        assert "innerHTML" not in page
        assert "@import" not in page


def test_every_control_has_a_name():
    tags = Tags(PAGE + login_page()).found
    labelled = {attributes["for"] for tag, attributes in tags if tag == "label"}
    inputs = [attributes for tag, attributes in tags if tag == "input"]
    assert len(inputs) == 3
    assert all("aria-label" in attributes or attributes["id"] in labelled for attributes in inputs)
    assert all("aria-label" in attributes for tag, attributes in tags if tag in ("canvas", "svg"))


def test_a_message_of_the_login_page_is_escaped():
    assert "<b>" not in login_page("<b>")


def test_chromium_shows_the_stream_and_changes_its_filter(tmp_path):
    async def look(site, tab):
        await tab.size(390, 844, mobile=True)
        await tab.open(site.server.url)
        await tab.until(f"document.readyState === 'complete' && {PICTURE_SHOWN}")
        # A frame of index i is gray i % 200: pictures that change are pictures that live.
        pixel = "[...document.getElementById('picture').getContext('2d').getImageData(60, 44, 1, 1).data].join()"
        first = await tab.evaluate(pixel)
        await tab.until(f"{pixel} !== '{first}'")
        assert await tab.evaluate("[picture.width, picture.height]".replace("picture", "document.getElementById('picture')")) == [64, 48]
        assert await tab.evaluate("document.documentElement.scrollWidth") == 390  # nothing sticks out
        assert await tab.evaluate(TEXT.format("health")) == "ok"
        assert "yard" in await tab.evaluate(TEXT.format("cameras"))
        assert "disk full" in await tab.evaluate(TEXT.format("sinks"))
        assert 'a "quoted" <b>class</b>\\' in await tab.evaluate(TEXT.format("classes"))
        assert await tab.evaluate("document.querySelectorAll('#classes b').length") == 0
        small = "[...document.querySelectorAll('button, label')].filter((one) => one.offsetHeight && one.offsetHeight < 34)"
        assert await tab.evaluate(f"{small}.filter((one) => !one.htmlFor).length") == 0

        await tab.evaluate("set('#threshold', 0.33)".replace("set", SET))
        await tab.evaluate("document.querySelector('#classes input[type=checkbox]').click()")
        await tab.evaluate("set('#classes li:nth-child(2) input[type=range]', 0.8)".replace("set", SET))
        wanted = {"threshold": 0.33, "class_thresholds": {"boat": 0.8}, "only": ("boat", site.control.class_names[2])}
        while {name: getattr(site.control.detection_filter, name) for name in wanted} != wanted:
            await asyncio.sleep(0.05)
        await tab.evaluate("document.getElementById('all').click()")
        while site.control.detection_filter.only is not None:
            await asyncio.sleep(0.05)
        assert [said for said in tab.complaints if "readback" not in str(said)] == []  # that one is of our looking at pixels

    with serving() as site:
        site.control.sinks = (sink(message="disk full"),)
        run(site, look, tmp_path)


SET = "((where, value) => { const one = document.querySelector(where); one.value = value; one.dispatchEvent(new Event('input')); })"


def test_chromium_says_what_is_wrong_and_comes_back(tmp_path):
    async def look(site, tab):
        await tab.open(site.server.url)
        await tab.until(PICTURE_SHOWN)
        assert await tab.evaluate("document.getElementById('trouble').hidden")

        await tab.evaluate("document.querySelector('#choice button:nth-child(2)').click()")
        await tab.until("document.getElementById('camera-name').textContent === 'gate'")
        await tab.until(PICTURE_SHOWN)
        site.control.cameras = (camera("yard"), camera("gate", CameraState.BACKOFF, age_s=75.0, message="connection refused"))
        await tab.until(TEXT.format("trouble") + " === 'backoff: no new frame for 1 min 15 s: connection refused'")
        site.control.inferred_age_s = 60.0
        await tab.until(TEXT.format("health") + " === 'stalled'")

        site.server.close()
        await tab.until("!document.getElementById('lost').hidden")
        site.control.inferred_age_s = 0.1
        site.server = WebServer(site.control, site.frames, port=site.port)
        site.server.start()
        await tab.until("document.getElementById('lost').hidden")
        await tab.until(TEXT.format("health") + " === 'ok'")
        await tab.until(PICTURE_SHOWN)

    with serving() as site:
        run(site, look, tmp_path)


def test_chromium_logs_in(tmp_path):
    async def look(site, tab):
        await tab.open(site.server.url)
        await tab.until("document.getElementById('token') !== null")
        await tab.evaluate(f"document.getElementById('token').value = 'not-{TOKEN}'; document.querySelector('button').click()")
        await tab.until("/not the token/.test(document.body.textContent)")
        await tab.evaluate(f"document.getElementById('token').value = '{TOKEN}'; document.querySelector('button').click()")
        await tab.until(PICTURE_SHOWN)
        assert await tab.evaluate("document.cookie") == ""  # not for scripts

    with serving(token=TOKEN) as site:
        run(site, look, tmp_path)


def run(site, look, profile):
    async def visit():
        async with browser(profile) as tab:
            await asyncio.wait_for(look(site, tab), 240)

    site.frames.write(result(camera="gate"))
    with producing(site.frames, ("yard", "gate"), 0.03):
        asyncio.run(visit())
