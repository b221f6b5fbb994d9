"""The look of the reports."""

from __future__ import annotations

CSS = """
:root{--paper:#fbfbfa;--card:#fff;--ink:#1d2129;--soft:#5d6673;--line:#e2e4e8;--accent:#2563c9;--bad:#b3261e;
--s0:#2563c9;--s1:#d9730d;--s2:#0f8a6a;--s3:#8b4bc9;--s4:#c2255c;--s5:#6b7280}
@media (prefers-color-scheme:dark){:root{--paper:#14171c;--card:#1b1f26;--ink:#e8eaee;--soft:#a0a9b6;
--line:#313741;--accent:#7fb0ff;--bad:#ff8a80;
--s0:#7fb0ff;--s1:#ffab66;--s2:#5ed1ad;--s3:#c79bff;--s4:#ff8fb5;--s5:#a0a9b6}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);-webkit-text-size-adjust:100%;
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1040px;margin:0 auto;padding:clamp(20px,4vw,48px) clamp(14px,4vw,32px) 40px}
h1{font-size:clamp(1.6rem,1.2rem + 2vw,2.3rem);line-height:1.15;letter-spacing:-.02em;margin:0 0 .35em}
h2{font-size:1.3rem;line-height:1.25;letter-spacing:-.01em;margin:2.4em 0 .4em}
p{margin:.5em 0 1em;max-width:70ch}.lede{font-size:1.1rem;color:var(--soft)}
.note,.warning{border-left:3px solid var(--accent);padding:.5em .9em;background:var(--card);
border-radius:0 6px 6px 0}
.warning{border-color:var(--bad);color:var(--bad);font-weight:600}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(135px,1fr));gap:12px;margin:1.2em 0}
.figures div{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 14px}
.figures b{display:block;font-size:clamp(1.2rem,1rem + 1.4vw,1.55rem);line-height:1.2;letter-spacing:-.02em;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.figures span{color:var(--soft);font-size:.86rem}
.scroll{overflow-x:auto;margin:1em 0;border:1px solid var(--line);border-radius:10px;background:var(--card)}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);padding:10px 14px 4px;caption-side:top}
caption span{display:block;position:sticky;left:14px;max-width:calc(100vw - 72px)}
th,td{padding:8px 10px;text-align:right;white-space:nowrap;border-top:1px solid var(--line)}
thead th{border-top:0;color:var(--soft);font-weight:600;font-size:.82rem}
tbody th{font-weight:600}th:first-child{text-align:left}
.bad td,.bad th{color:var(--bad);font-weight:600}
.chart{margin:1.2em 0;background:var(--card);
border:1px solid var(--line);border-radius:10px;padding:12px 12px 6px}
.chart figcaption{color:var(--soft);font-size:.9rem;margin:0 0 6px;padding:0 4px}
.chart svg{display:block;width:100%;height:auto;overflow:visible}
.wide{display:block}.narrow{display:none}
.chart text{fill:var(--soft);font:13px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;
font-variant-numeric:tabular-nums}
.chart .label{fill:var(--ink)}.chart .gridline{stroke:var(--line);stroke-width:1}
.key{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:.88rem;padding:2px 4px 4px}
.key span{display:inline-flex;align-items:center;gap:7px}
.key i{width:14px;height:4px;border-radius:2px;background:var(--c)}
.grid{display:grid;grid-template-columns:repeat(var(--columns),minmax(0,1fr));gap:14px;margin:1.2em 0}
figure{margin:0}.grid img{display:block;width:100%;height:auto;border-radius:8px;border:1px solid var(--line)}
.grid figcaption{color:var(--soft);font-size:.84rem;line-height:1.35;margin-top:4px}
.pixels{image-rendering:pixelated}
details{margin:.7em 0;border:1px solid var(--line);border-radius:10px;background:var(--card);padding:0 14px}
summary{cursor:pointer;padding:10px 0;font-weight:600}
pre{margin:0;padding:0 0 12px;font:.82rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;
white-space:pre-wrap;overflow-wrap:anywhere}
footer{margin-top:3em;padding-top:1em;border-top:1px solid var(--line);color:var(--soft);font-size:.85rem}
@media (max-width:640px){.wide{display:none}.narrow{display:block}
.grid{grid-template-columns:repeat(min(var(--columns),2),minmax(0,1fr));gap:10px}th,td{padding:7px 10px}}
@media print{.scroll,.chart,.figures div,details{break-inside:avoid}}
"""
"""Everything a page needs, inside it; `--s0` to `--s5` colour the series of charts."""
