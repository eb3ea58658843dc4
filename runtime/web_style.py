"""The style sheet of the web page: light and dark, phone and desk, nothing from elsewhere."""

STYLE = """
:root { color-scheme: light dark; --ink: #16202a; --soft: #566370; --page: #f4f6f8; --card: #fff; --line: #dde2e8; --accent: #1668c7;
  --good: #14763d; --good-back: #e2f4e8; --warn: #8a5a00; --warn-back: #fdf0d3; --bad: #b3261e; --bad-back: #fbe6e4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaef; --soft: #9aa7b5; --page: #0f1419; --card: #181f27; --line: #2b3540;
  --accent: #6cb2ff; --good: #6fd596; --good-back: #163524; --warn: #ffcf70; --warn-back: #3d2f10; --bad: #ff9d94; --bad-back: #431d1a; } }
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body { margin: 0 auto; max-width: 1320px; padding: 18px 18px 48px; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; font-variant-numeric: tabular-nums; }
header { display: flex; align-items: center; gap: 4px 12px; flex-wrap: wrap; margin-bottom: 14px; }
h1 { margin: 0; font-size: 20px; }
h2 { margin: 0 0 10px; font-size: 15px; }
p { margin: 0; }
.soft { color: var(--soft); }
.small { font-size: 13px; }
.columns { display: grid; grid-template-columns: minmax(0, 1.75fr) minmax(0, 1fr); gap: 14px; align-items: start; }
.columns > div { display: grid; gap: 14px; min-width: 0; }
section { padding: 14px 16px; background: var(--card); border: 1px solid var(--line); border-radius: 12px; min-width: 0; }
.live { padding: 0; overflow: hidden; }
.screen { position: relative; width: 100%; background: #000; aspect-ratio: 16 / 9; max-height: 66vh; }
.screen canvas { display: block; width: 100%; height: 100%; object-fit: contain; }
.screen p { position: absolute; inset: auto 0 0 0; padding: 8px 14px; background: rgb(0 0 0 / 72%); color: #fff; overflow-wrap: anywhere; }
.screen.still canvas { opacity: .45; }
.caption { display: flex; gap: 4px 14px; flex-wrap: wrap; justify-content: space-between; padding: 10px 16px; }
.choice { display: flex; gap: 8px; padding: 0 16px 14px; overflow-x: auto; }
.choice button { flex: 0 0 auto; width: 132px; padding: 0 0 4px; overflow: hidden; }
.choice canvas { display: block; width: 100%; aspect-ratio: 16 / 9; object-fit: contain; background: #000; }
.choice span { display: block; padding: 4px 6px 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
button { min-height: 40px; padding: 0 14px; border: 1px solid var(--line); border-radius: 8px; background: var(--page); color: var(--ink);
  font: inherit; cursor: pointer; }
button[aria-pressed=true] { border-color: var(--accent); box-shadow: 0 0 0 1px var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(96px, 1fr)); gap: 10px; }
.tile { padding: 10px 12px; background: var(--card); border: 1px solid var(--line); border-radius: 12px; min-width: 0; }
.tile b { display: block; font-size: 21px; line-height: 1.25; white-space: nowrap; }
.tile span { display: block; font-size: 12.5px; color: var(--soft); }
.pill { padding: 1px 10px; border-radius: 99px; font-size: 13px; white-space: nowrap; flex: none; align-self: flex-start;
  background: var(--warn-back); color: var(--warn); }
.pill.good { background: var(--good-back); color: var(--good); }
.pill.bad { background: var(--bad-back); color: var(--bad); }
.note { margin-bottom: 14px; padding: 10px 14px; border-radius: 8px; background: var(--warn-back); color: var(--warn);
  overflow-wrap: anywhere; }
.note.bad, .error { background: var(--bad-back); color: var(--bad); }
.error { margin-top: 4px; padding: 6px 10px; border-radius: 8px; font-size: 13px; overflow-wrap: anywhere; }
ul { margin: 0; padding: 0; list-style: none; }
.states > li { padding: 9px 0; border-top: 1px solid var(--line); }
.states > li:first-child { padding-top: 0; border-top: 0; }
.states > li:last-child { padding-bottom: 0; }
.head { display: flex; justify-content: space-between; gap: 10px; }
.head b { overflow-wrap: anywhere; font-weight: 600; }
table { width: 100%; border-collapse: collapse; }
th, td { padding: 5px 0 5px 10px; text-align: right; font-weight: 400; border-top: 1px solid var(--line); }
th:first-child { padding-left: 0; text-align: left; }
thead th { color: var(--soft); font-size: 13px; border-top: 0; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 12px; }
svg line { stroke: var(--line); }
svg polyline { fill: none; stroke-width: 2; stroke-linejoin: round; vector-effect: non-scaling-stroke; }
.p50 { stroke: var(--accent); } .p95 { stroke: #e0882b; }
.legend { display: flex; gap: 16px; margin-top: 6px; }
.legend span::before { content: ""; display: inline-block; width: 14px; height: 3px; margin-right: 6px; vertical-align: middle; }
.legend .p50::before { background: var(--accent); } .legend .p95::before { background: #e0882b; }
input { accent-color: var(--accent); font: inherit; }
input[type=range] { width: 100%; height: 32px; margin: 0; }
input[type=checkbox] { width: 20px; height: 20px; margin: 0; flex: none; }
input[type=search], input[type=password] { width: 100%; min-height: 40px; padding: 0 12px; border: 1px solid var(--line);
  border-radius: 8px; background: var(--page); color: var(--ink); }
.all { display: grid; grid-template-columns: auto 1fr 3em; gap: 12px; align-items: center; }
output { text-align: right; }
.bar { display: flex; gap: 8px; align-items: center; margin: 8px 0; }
.bar button { flex: none; }
.classes { max-height: 470px; overflow-y: auto; }
.classes li { display: grid; grid-template-columns: minmax(0, 1fr) auto 3.4em; gap: 0 10px; align-items: center; padding: 6px 2px 2px;
  border-top: 1px solid var(--line); }
.classes label { display: flex; gap: 10px; align-items: center; min-height: 36px; overflow-wrap: anywhere; cursor: pointer; }
.classes i { width: 12px; height: 12px; border-radius: 3px; border: 1px solid rgb(0 0 0 / 35%); flex: none; }
.classes .found { text-align: right; grid-column: 3; }
.classes [type=range] { grid-column: 1 / 3; }
.classes button { min-height: 34px; padding: 0 12px; font-size: 13px; }
.classes li.off :is([type=range], output), .classes li:not(.own) button { display: none; }
.classes li:not(.own) [type=range] { opacity: .55; }
.login { max-width: 380px; margin: 16vh auto 0; }
.login form { display: grid; gap: 12px; margin-top: 12px; }
@media (max-width: 860px) {
  body { padding: 12px 10px 40px; }
  .columns { grid-template-columns: minmax(0, 1fr); }
  .live { margin: 0 -10px; border-width: 1px 0; border-radius: 0; }
  .tiles { grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 8px; }
  .tile { padding: 8px 10px; } .tile b { font-size: 18px; }
  .classes { max-height: none; }
}
"""
