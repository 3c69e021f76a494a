"""The look of the report: one style sheet, light and dark, for paper, telephone and desk."""

from __future__ import annotations

STYLE = """
:root {
  --paper: #faf9f6; --card: #ffffff; --ink: #25241f; --soft: #5f5c54; --faint: #8d897e; --rule: #e5e2d9;
  --accent: #2a6b67; --tint: #e9f1ef; --good: #2c7a4b; --good-tint: #e7f2ea; --bad: #a4492f; --part: #8a6a1c;
  --c0: #2a6b97; --c1: #bf6a30; --c2: #3f8258; --c3: #85589f; --c4: #a0842c; --c5: #6b7480;
  --serif: "Iowan Old Style", "Palatino Linotype", Palatino, "Book Antiqua", "URW Palladio L", Georgia, serif;
  --sans: ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #171715; --card: #1f1f1c; --ink: #e8e5dc; --soft: #b1ada2; --faint: #858176; --rule: #34332e;
    --accent: #7fc2ba; --tint: #22302e; --good: #7cc796; --good-tint: #20302a; --bad: #e08f72; --part: #d6b25a;
    --c0: #74b0dc; --c1: #e39a66; --c2: #83c49a; --c3: #c19bd8; --c4: #d3b964; --c5: #a3abb5;
  }
  img { filter: brightness(.94); }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.6 var(--sans); }
main { max-width: 1120px; margin: 0 auto; padding: clamp(1.5rem, 5vw, 4.5rem) clamp(1rem, 4vw, 2.5rem) 4rem; }
h1, h2 { font-family: var(--serif); font-weight: 500; line-height: 1.15; letter-spacing: -.012em;
  text-wrap: balance; margin: 0; }
h1 { font-size: clamp(2.1rem, 5.2vw, 3.3rem); max-width: 22ch; }
h2 { font-size: clamp(1.5rem, 3vw, 1.95rem); }
p { margin: 0 0 .8em; }
figure, ol, ul, dl, dd { margin: 0; padding: 0; }
ol, ul { list-style: none; }
img { display: block; max-width: 100%; height: auto; border-radius: 5px; background: var(--rule); }
b { font-weight: 600; }
a { color: var(--accent); }
.kicker { color: var(--accent); font-size: .78rem; font-weight: 600; letter-spacing: .09em; text-transform: uppercase;
  margin-bottom: 1rem; }
.lead { font: 1.22rem/1.55 var(--serif); color: var(--soft); max-width: 62ch; margin: 1.1rem 0 0; }
.facts { display: flex; flex-wrap: wrap; gap: .7rem 2.4rem; margin-top: 1.9rem; }
.facts dt { font-size: .76rem; color: var(--faint); }
.facts dd { font-size: .95rem; font-variant-numeric: tabular-nums; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.5rem; margin-top: 2.2rem; padding: .8rem 0;
  border-top: 1px solid var(--rule); border-bottom: 1px solid var(--rule); font-size: .92rem; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; text-underline-offset: .2em; }
section { margin-top: clamp(3rem, 7vw, 5rem); scroll-margin-top: 1rem; }
.explanation, .prose p { color: var(--soft); max-width: 70ch; }
.explanation { margin: .7rem 0 0; }
section > div { margin-top: 1.6rem; }
section > div + div { margin-top: 3rem; }
.note { color: var(--faint); font-size: .85rem; line-height: 1.45; }
p.note { margin: .6rem 0 0; max-width: 75ch; }
figcaption { font-weight: 600; font-size: .97rem; }
footer { margin-top: 5rem; padding-top: 1.1rem; border-top: 1px solid var(--rule); color: var(--faint);
  font-size: .85rem; }

.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 1.5rem 2rem; }
.figure { display: flex; flex-direction: column; border-top: 2px solid var(--accent); padding-top: .7rem; }
.figure .value { font: 500 2.15rem/1.15 var(--serif); font-variant-numeric: lining-nums; }
.figure .label { font-size: .95rem; margin-top: .15rem; }

.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 2.2rem 2.4rem; }
.curve svg { display: block; width: 100%; height: auto; margin-top: .5rem; overflow: visible; }
.curve text { font: 11px var(--sans); fill: var(--faint); font-variant-numeric: tabular-nums; }
.grid { stroke: var(--rule); stroke-width: 1; }
.axis { stroke: var(--faint); stroke-width: 1; opacity: .6; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.line.faint { stroke-width: 1; opacity: .28; }
.line.dashed { stroke-dasharray: 5 5; stroke-width: 1.6; }
.dot { stroke: var(--paper); stroke-width: .8; }
.line.s0 { stroke: var(--c0); } .line.s1 { stroke: var(--c1); } .line.s2 { stroke: var(--c2); }
.line.s3 { stroke: var(--c3); } .line.s4 { stroke: var(--c4); } .line.s5 { stroke: var(--c5); }
.dot.s0 { fill: var(--c0); } .dot.s1 { fill: var(--c1); } .dot.s2 { fill: var(--c2); }
.dot.s3 { fill: var(--c3); } .dot.s4 { fill: var(--c4); } .dot.s5 { fill: var(--c5); }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; font-size: .83rem; color: var(--soft); margin-top: .2rem; }
.legend li { display: flex; align-items: center; gap: .42em; }
.legend b { color: var(--ink); font-variant-numeric: tabular-nums; }
.key { width: 15px; border-top: 2.5px solid; border-radius: 2px; }
.key.dashed { border-top-style: dotted; }
.key.s0 { border-color: var(--c0); } .key.s1 { border-color: var(--c1); } .key.s2 { border-color: var(--c2); }
.key.s3 { border-color: var(--c3); } .key.s4 { border-color: var(--c4); } .key.s5 { border-color: var(--c5); }

.tables { display: grid; gap: 2.4rem; }
.tables > * { min-width: 0; }
.scroll { overflow-x: auto; margin-top: .6rem; }
table { border-collapse: collapse; min-width: min(100%, 560px); font-variant-numeric: tabular-nums lining-nums; }
th, td { padding: .5rem .95rem; text-align: right; vertical-align: top; white-space: nowrap; font-size: .95rem; }
th { font-weight: 500; }
thead th { font-size: .85rem; color: var(--soft); border-bottom: 1px solid var(--rule); vertical-align: bottom;
  white-space: normal; max-width: 11rem; }
tbody th { text-align: left; padding-left: 0; color: var(--soft); font-weight: 400; }
tbody tr + tr > * { border-top: 1px solid var(--rule); }
td { min-width: 6.2rem; }
.chance { color: var(--faint); }
th.ours { color: var(--accent); font-weight: 600; background: var(--tint); border-radius: 6px 6px 0 0; }
td.ours { background: var(--tint); }
.bar { display: block; height: 2px; margin: .28rem 0 0 auto; border-radius: 1px; background: currentColor;
  opacity: .35; }
td.ours .bar { background: var(--accent); opacity: .8; }

.examples { display: grid; gap: 2.4rem; }
.examples.two { grid-template-columns: repeat(auto-fill, minmax(min(100%, 460px), 1fr)); gap: 2.2rem 2.6rem; }
.asked { display: flex; align-items: baseline; justify-content: space-between; gap: 1.2rem; }
.query { font: 1.13rem/1.4 var(--serif); margin: 0; }
.place { flex: none; font-size: .83rem; color: var(--faint); }
.place p { margin: 0; }
.place.hit { color: var(--good); }
.pictures { display: flex; gap: .8rem; margin-top: .7rem; }
.pictures li { min-width: 0; flex: var(--shape) 1 0; max-width: calc(var(--shape) * 12.5rem); }
.pictures img { width: 100%; }
.pictures .right img { outline: 3px solid var(--good); outline-offset: 2px; }
.under { display: flex; justify-content: space-between; gap: .5rem; min-height: 1.4em; margin-top: .3rem;
  font-size: .8rem; }
.mark { color: var(--good); font-weight: 600; }
.score { color: var(--faint); margin-left: auto; font-variant-numeric: tabular-nums; font-size: .8rem; }
.missed { display: flex; align-items: center; gap: .9rem; margin-top: .5rem; font-size: .92rem; }
.missed .note { margin: 0; }
.missed img { width: 110px; }
.two .retrieval { display: grid; grid-template: auto 1fr / minmax(130px, 38%) 1fr; gap: 0 1.2rem;
  align-items: start; }
.two .asked { display: block; grid-row: span 2; }
.two .place { margin-top: .45rem; }
.two .missed { grid-column: 2; display: block; }
.captions { counter-reset: place; }
.captions li { counter-increment: place; display: flex; gap: .7rem; align-items: baseline; padding: .38rem .6rem;
  margin-bottom: 4px; font-size: .93rem; line-height: 1.4; border-radius: 6px; }
.captions li::before { content: counter(place); color: var(--faint); font-size: .8rem; }
.captions li > span:first-of-type { flex: 1; }
.captions .under { margin: 0; min-height: 0; flex: none; }
.captions .right { background: var(--good-tint); box-shadow: inset 0 0 0 1.5px var(--good); }

.questions { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr));
  gap: 2.2rem 1.8rem; }
.shown { display: flex; gap: .5rem; }
.shown div { flex: var(--shape) 1 0; min-width: 0; }
.shown img { width: 100%; }
.question .words { margin-top: .7rem; }
.question p { margin: 0 0 .35rem; }
.verdict { font-size: .8rem; font-weight: 600; margin-right: .6em; }
.verdict.good { color: var(--good); } .verdict.bad { color: var(--bad); } .verdict.part { color: var(--part); }
.top { margin-top: .55rem; font-size: .86rem; }
.top li { display: grid; grid-template-columns: minmax(4.5rem, 34%) 1fr 2.7rem; gap: .6rem; align-items: center; }
.top .word { color: var(--soft); overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.track { height: 5px; border-radius: 3px; background: var(--rule); overflow: hidden; }
.track i { display: block; height: 100%; border-radius: 3px; background: var(--c0); }

.dictionary .figures { margin-bottom: 2.2rem; }
.codes { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); gap: 1.5rem 2.4rem; }
.code > div:first-child { display: flex; gap: .8rem; align-items: baseline; font-size: .92rem; }
.patches { display: grid; grid-template-columns: repeat(8, 1fr); gap: 4px; margin-top: .4rem; }
.patches img { width: 100%; border-radius: 3px; }
.said { display: flex; flex-wrap: wrap; gap: 0 .9rem; font-size: .92rem; color: var(--accent); margin-top: .1rem; }
.said .note { margin-left: .25em; }
.code > p.note { margin: .1rem 0 0; }

.maps { display: grid; gap: 3rem; }
.panels .whole { max-width: 460px; margin: .6rem 0 0; }
.panels .whole img { width: 100%; }
.panels > div > p { margin: 1.6rem 0 .5rem; }
.panels ul { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 1rem .9rem; }
.panels li img { width: 100%; }
.panels li p { margin: .3rem 0 0; font-size: .92rem; line-height: 1.35; }

@media (max-width: 620px) {
  .pictures { flex-wrap: wrap; }
  .pictures li { flex: 1 1 28%; max-width: 44%; }
  .asked { display: block; }
  .two .retrieval { grid-template: none; gap: .7rem; }
  .two .missed { grid-column: 1; }
  table { min-width: 100%; }
  th, td { padding: .45rem; font-size: .88rem; }
  tbody th { white-space: normal; }
  td { min-width: 0; }
}
@media print {
  body { background: #fff; }
  section, article, figure { break-inside: avoid; }
  nav { display: none; }
}
"""
