"""The first part of the web page's script: asks for the state each second and for picture after picture, and says so where neither comes.

Pictures are asked for one by one, not as a motion JPEG: a slow phone then has one on its way and never a backlog in some buffer,
and a stream that dies is noticed. Whatever comes from the server is put in place as text, never as HTML.
"""

LIVE_SCRIPT = r"""
const POLL_MS = 1000, HIDDEN_POLL_MS = 10000, RETRY_MS = 1000, PREVIEW_MS = 3000, OLD_S = 3;
const byId = (id) => document.getElementById(id);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
let shownCamera = null, lastStatus = null, picture = null;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
function makeSvg(tag, attributes, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}
const count = (number) => number >= 1e6 ? (number / 1e6).toFixed(number >= 1e7 ? 1 : 2) + " M"
  : number.toLocaleString("en").replaceAll(",", "\u2009");
const milliseconds = (value) => value === null ? "\u2013" : value >= 1e4 ? (value / 1e3).toFixed(0) + " s"
  : value === 0 ? "0" : value.toFixed(value < 1 ? 2 : value < 10 ? 1 : 0) + " ms";
function duration(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]].filter(([size]) => seconds >= size);
  const [[size, unit] = [1, "s"], smaller] = parts;
  const rest = smaller && size >= 60 ? Math.floor(seconds % size / smaller[0]) : 0;
  return Math.floor(seconds / size) + " " + unit + (rest ? " " + rest + " " + smaller[1] : "");
}
const pill = (text, kind) => make("span", {className: "pill " + kind, textContent: text});
const kindOf = (state) => state === "running" || state === "ok" ? "good" : state === "failed" || state === "stalled" ? "bad" : "";

async function ask(path, options = {}) {
  const answer = await fetch(path, {signal: AbortSignal.timeout(15000), ...options});
  if (answer.status === 401) location.reload();
  return answer;
}

async function poll() {
  try {
    const answer = await ask("/status");
    if (!answer.ok) throw new Error(answer.statusText);
    lastStatus = await answer.json();
    byId("lost").hidden = true;
    show(lastStatus);
  } catch (error) {
    byId("lost").hidden = false;
    byId("screen").classList.add("still");
    byId("health").replaceChildren(pill("no connection", "bad"));
  }
  setTimeout(poll, document.hidden ? HIDDEN_POLL_MS : POLL_MS);
}

function show(status) {
  byId("model").textContent = status.model + " \u00b7 " + status.engine;
  byId("health").replaceChildren(pill(status.health, kindOf(status.health)));
  showCameras(status.cameras);
  showTiles(status);
  showStages(status.stage_ms);
  showSinks(status.sinks);
  showChart(status.recent_latency_ms);
  showFilter(status);
}

function showTiles(status) {
  const dropped = status.cameras.reduce((sum, camera) => sum + camera.dropped, 0);
  const found = Object.values(status.detections).reduce((sum, number) => sum + number, 0);
  byId("tiles").replaceChildren(...[
    [status.rate === null ? "\u2013" : status.rate.toFixed(1), "frames/s"],
    [milliseconds(status.recent_latency_ms.p50), "latency p50"],
    [duration(status.seconds).split(" ").slice(0, status.seconds < 86400 ? 2 : 4).join(" "), "uptime"],
    [count(status.inferred), "inferred"],
    [count(dropped), "dropped"],
    [count(found), "detections"],
  ].map(([value, meaning]) => make("div", {className: "tile"}, make("b", {textContent: value}), make("span", {textContent: meaning}))));
}

function showStages(stages) {
  byId("stages").replaceChildren(...Object.entries(stages).map(([stage, times]) => make("tr", {},
    make("th", {scope: "row", textContent: stage}),
    ...["p50", "p95", "p99"].map((name) => make("td", {textContent: milliseconds(times[name])})))));
}

function stateItem(name, state, kind, details, message) {
  const item = make("li", {}, make("div", {className: "head"}, make("b", {textContent: name}), pill(state, kind)),
    make("p", {className: "soft small", textContent: details.filter(Boolean).join(" \u00b7 ")}));
  if (message) item.append(make("p", {className: "error", textContent: message}));
  return item;
}

function showCameras(cameras) {
  if (!cameras.some((camera) => camera.name === shownCamera)) choose(cameras.length ? cameras[0].name : null);
  byId("cameras").replaceChildren(...cameras.map((camera) => stateItem(camera.name, camera.state, kindOf(camera.state), [
    camera.height_width && camera.height_width[1] + "\u00d7" + camera.height_width[0], camera.fps && camera.fps.toFixed(0) + " fps",
    count(camera.captured) + " captured", count(camera.dropped) + " dropped", camera.failed && count(camera.failed) + " undecodable",
    camera.reconnects && "reconnected " + count(camera.reconnects) + "\u00d7"], camera.message)));
  showChoice(cameras);
  const camera = cameras.find((one) => one.name === shownCamera);
  byId("camera-name").textContent = camera ? camera.name : "no camera";
  const old = camera && camera.age_s !== null && camera.age_s > OLD_S ? "no new frame for " + duration(camera.age_s) : "";
  const trouble = camera && camera.state !== "running" ? [camera.state, old, camera.message] : [old];
  const text = trouble.filter(Boolean).join(": ");
  byId("trouble").hidden = !text;
  byId("trouble").textContent = text;
  byId("screen").classList.toggle("still", Boolean(text));
}

function showChoice(cameras) {
  const box = byId("choice");
  box.hidden = cameras.length < 2;
  if (box.hidden || [...box.children].map((button) => button.value).join("\n") === cameras.map((camera) => camera.name).join("\n")) return;
  box.replaceChildren(...cameras.map((camera) => {
    const button = make("button", {type: "button", value: camera.name, onclick: () => choose(camera.name)},
      make("canvas", {width: 240, height: 135}), make("span", {textContent: camera.name}));
    button.setAttribute("aria-pressed", camera.name === shownCamera);
    return button;
  }));
}

function choose(name) {
  shownCamera = name;
  byId("picture").setAttribute("aria-label", "live picture of " + name);
  for (const button of byId("choice").children) button.setAttribute("aria-pressed", button.value === name);
  if (picture) picture.abort();
  if (lastStatus) showCameras(lastStatus.cameras);
}

async function paint(canvas, answer, fill) {
  const bitmap = await createImageBitmap(await answer.blob());
  const scale = fill ? Math.min(fill / bitmap.width, 1) : 1;
  canvas.width = bitmap.width * scale;
  canvas.height = bitmap.height * scale;
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
}

async function showPictures() {
  let camera = null, after = 0, times = [];
  for (;;) {
    if (document.hidden || shownCamera === null) { await sleep(RETRY_MS / 4); continue; }
    if (camera !== shownCamera) [camera, after, times] = [shownCamera, 0, []];
    picture = new AbortController();
    const timer = setTimeout(() => picture.abort(), 15000);
    try {
      const answer = await ask("/snapshot.jpg?camera=" + encodeURIComponent(camera) + "&after=" + after, {signal: picture.signal});
      if (!answer.ok) throw new Error(answer.statusText);
      await paint(byId("picture"), answer);
      byId("screen").style.aspectRatio = byId("picture").width + " / " + byId("picture").height;
      after = answer.headers.get("X-Frame-Number");
      times = [...times.slice(-20), Date.now()];
      const span = times.at(-1) - times[0];
      byId("shown-rate").textContent = span ? ((times.length - 1) * 1000 / span).toFixed(0) + " pictures a second shown" : "";
    } catch (error) {
      if (camera === shownCamera) { byId("shown-rate").textContent = "waiting for a picture"; await sleep(RETRY_MS); }
    }
    clearTimeout(timer);
  }
}

async function showPreviews() {
  for (;;) {
    for (const button of [...byId("choice").children]) {
      if (document.hidden) continue;
      const answer = await ask("/snapshot.jpg?camera=" + encodeURIComponent(button.value)).catch(() => null);
      if (answer && answer.ok) await paint(button.firstChild, answer, 240).catch(() => null);
    }
    await sleep(PREVIEW_MS);
  }
}
"""
