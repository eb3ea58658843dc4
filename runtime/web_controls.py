"""The second part of the web page's script: the states of sinks, the chart of latency, the thresholds and classes; and its start."""

CONTROL_SCRIPT = r"""
const HISTORY_MS = 300000, SETTLE_MS = 300, OURS_MS = 2500, SEARCH_FROM = 12, HIGH = 190, LEFT = 56, TOP = 8, FOOT = 24;
const past = [];
let wanted = null, sending = null, changedAt = 0;

function showSinks(sinks) {
  byId("sinks").replaceChildren(...sinks.map((sink) => stateItem(
    sink.name, sink.message ? "failing" : "ok", sink.message ? "bad" : "good", [
      count(sink.written) + " written", count(sink.dropped) + " dropped", sink.failed && count(sink.failed) + " failed",
      sink.queued && count(sink.queued) + " queued",
      sink.age_ms.p50 !== null && "age " + milliseconds(sink.age_ms.p50) + ", p99 " + milliseconds(sink.age_ms.p99),
    ], sink.message)));
  byId("no-sinks").hidden = sinks.length > 0;
}

function showChart(latency) {
  const now = Date.now();
  past.push({time: now, ...latency});
  while (past[0].time < now - HISTORY_MS) past.shift();
  const most = niceCeiling(Math.max(1, ...past.map((point) => point.p95 || 0)));
  const wide = byId("chart").clientWidth || 640, span = Math.max(60000, now - past[0].time);
  const x = (time) => (LEFT + (1 - (now - time) / span) * (wide - LEFT - 6)).toFixed(1);
  const y = (value) => (TOP + (1 - value / most) * (HIGH - TOP - FOOT)).toFixed(1);
  const parts = [];
  for (const share of [0, 0.5, 1]) {
    parts.push(makeSvg("line", {x1: LEFT, x2: wide - 6, y1: y(share * most), y2: y(share * most)}));
    parts.push(makeSvg("text", {x: LEFT - 8, y: Number(y(share * most)) + 4, "text-anchor": "end"}, milliseconds(share * most)));
  }
  for (const [share, anchor] of [[1, "start"], [0.5, "middle"], [0, "end"]]) {
    const ago = duration(Math.round(share * span / 1000));
    parts.push(makeSvg("text", {x: x(now - share * span), y: HIGH - 6, "text-anchor": anchor}, share ? ago + " ago" : "now"));
  }
  for (const name of ["p50", "p95"]) {
    const points = past.filter((point) => point[name] !== null).map((point) => x(point.time) + "," + y(point[name]));
    parts.push(makeSvg("polyline", {class: name, points: points.join(" ")}));
  }
  byId("chart").setAttribute("viewBox", "0 0 " + wide + " " + HIGH);
  byId("chart").replaceChildren(...parts);
  byId("chart").setAttribute("aria-label", "latency of the last frames: median " + milliseconds(latency.p50)
    + ", 95 % below " + milliseconds(latency.p95));
}

function niceCeiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

function showFilter(status) {
  const list = byId("classes");
  if (list.childElementCount !== status.classes.length) buildFilter(status);
  status.classes.forEach(({name}, index) => {
    list.children[index].querySelector(".found").textContent = count(status.detections[name] || 0);
  });
  if (sending === null && Date.now() - changedAt > OURS_MS) useFilter(status.filter);
}

function buildFilter(status) {
  byId("search").hidden = status.classes.length < SEARCH_FROM;
  byId("threshold").min = status.least_threshold;
  byId("classes").replaceChildren(...status.classes.map(({name, color}) => {
    const box = make("input", {type: "checkbox", onchange: () => chooseClass(name, box.checked)});
    const slider = make("input", {type: "range", min: status.least_threshold, max: 1, step: 0.01,
      oninput: () => setThreshold(name, slider.valueAsNumber)});
    slider.setAttribute("aria-label", "least score of " + name);
    const swatch = make("i");
    swatch.style.background = color;
    const reset = make("button", {type: "button", textContent: "reset", onclick: () => setThreshold(name, null)});
    reset.setAttribute("aria-label", "let " + name + " follow the threshold of all");
    return make("li", {}, make("label", {}, box, swatch, name), reset, make("span", {className: "found soft"}),
      slider, make("output"));
  }));
}

function useFilter(filter) {
  wanted = filter;
  byId("threshold").value = filter.threshold;
  byId("threshold-value").textContent = filter.threshold.toFixed(2);
  lastStatus.classes.forEach(({name}, index) => {
    const row = byId("classes").children[index], own = filter.class_thresholds[name], value = own ?? filter.threshold;
    const on = filter.only === null || filter.only.includes(name);
    row.classList.toggle("own", own !== undefined);
    row.classList.toggle("off", !on);
    row.querySelector("[type=checkbox]").checked = on;
    row.querySelector("[type=range]").value = value;
    row.querySelector("output").textContent = value.toFixed(2);
  });
}

function change(filter) {
  changedAt = Date.now();
  useFilter({...wanted, ...filter});
  clearTimeout(sending);
  sending = setTimeout(sendFilter, SETTLE_MS);
}

function setThreshold(name, value) {
  const {[name]: _, ...others} = wanted.class_thresholds;
  change({class_thresholds: value === null ? others : {...others, [name]: value}});
}

function chooseClass(name, on) {
  const names = lastStatus.classes.map((one) => one.name);
  const only = names.filter((one) => one === name ? on : wanted.only === null || wanted.only.includes(one));
  if (only.length === 0) { tell(["one class at least must stay"]); useFilter(wanted); return; }
  change({only: only.length === names.length ? null : only});
}

async function sendFilter() {
  sending = null;
  try {
    const answer = await ask("/filter", {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(wanted)});
    const said = await answer.json();
    tell(answer.ok ? said.warnings : [said.error]);
    if (!answer.ok) changedAt = 0;
  } catch (error) {
    tell(["the change did not reach the stream: try again"]);
    changedAt = 0;
  }
}

function tell(lines) {
  byId("warnings").hidden = lines.length === 0;
  byId("warnings").textContent = lines.join("; ");
}

byId("threshold").addEventListener("input", (event) => change({threshold: event.target.valueAsNumber}));
byId("all").addEventListener("click", () => change({only: null}));
byId("search").addEventListener("input", (event) => {
  const text = event.target.value.trim().toLowerCase();
  lastStatus.classes.forEach(({name}, index) => { byId("classes").children[index].hidden = !name.toLowerCase().includes(text); });
});
poll();
showPictures();
showPreviews();
"""
