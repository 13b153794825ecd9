"""The frame of the report: one page, no script, nothing fetched from anywhere."""

from __future__ import annotations

from collections.abc import Iterable

from gpt2fast.bench.palette import Style


def page(title: str, body: str, styles: Iterable[Style]) -> str:
    """A complete HTML document."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{_css(list(styles))}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _css(styles: list[Style]) -> str:
    light = "".join(f".{style.name}{{--c:{style.light}}}" for style in styles)
    dark = "".join(f".{style.name}{{--c:{style.dark}}}" for style in styles)
    return _CSS + light + f"@media(prefers-color-scheme:dark){{{dark}}}"


_CSS = """
:root{--bg:#f6f7f9;--card:#fff;--ink:#15181e;--soft:#5b6370;--line:#e3e6eb;--fill:#eef0f4;
--accent:#0b6bcb;--bad:#b3261e;
--sans:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","DejaVu Sans",sans-serif;
--mono:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace}
@media(prefers-color-scheme:dark){:root{--bg:#0e1116;--card:#161a21;--ink:#e8ebf0;--soft:#98a1b0;
--line:#2a303a;--fill:#212732;--accent:#5aa9ff;--bad:#ff8a80}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.55 var(--sans);
-webkit-font-smoothing:antialiased}
main{max-width:1400px;margin:0 auto;padding:44px 24px 72px}
header p{margin:.2em 0;color:var(--soft)}
h1{font-size:30px;line-height:1.2;letter-spacing:-.02em;margin:0 0 10px}
h2{font-size:19px;letter-spacing:-.01em;margin:44px 0 4px}
h3{font-size:15px;margin:0 0 14px;font-weight:600}
.lead{color:var(--soft);margin:0 0 16px;max-width:76ch}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:14px;margin:28px 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:18px 20px;
margin:0 0 16px;min-width:0}
.cards .card{margin:0}
.any{--c:var(--soft)}
summary{cursor:pointer;color:var(--accent);font-size:13.5px;margin-top:14px}
.key{color:var(--soft);font-size:13px}
.value{font-size:27px;font-weight:650;letter-spacing:-.02em;line-height:1.3;
font-variant-numeric:tabular-nums}
.value small{font-size:14px;font-weight:500;color:var(--soft);letter-spacing:0}
.bars{display:grid;grid-template-columns:max-content minmax(120px,1fr) max-content;
gap:9px 14px;align-items:center;margin:0 0 6px}
.bars .name{font-weight:550}
.track{position:relative;height:20px;background:var(--fill);border-radius:5px}
.bar{height:100%;background:var(--c);border-radius:5px;min-width:2px}
.mark{position:absolute;top:-4px;bottom:-4px;width:0;border-left:2px dashed var(--ink);opacity:.55}
.num{font-variant-numeric:tabular-nums;text-align:right;white-space:nowrap}
.num small{color:var(--soft)}
.scroll{overflow-x:auto;margin:16px -20px -18px;border-top:1px solid var(--line);
border-radius:0 0 14px 14px}
table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:6px 7px;text-align:right;white-space:nowrap}
thead th{color:var(--soft);font-weight:500;line-height:1.3;vertical-align:bottom}
thead .group th{padding-bottom:0;text-align:center;font-weight:600;color:var(--ink)}
thead tr:last-child th{border-bottom:1px solid var(--line)}
tbody th{text-align:left;font-weight:550;position:sticky;left:0;background:var(--card)}
thead th:first-child{position:sticky;left:0;background:var(--card);text-align:left}
th:first-child{padding-left:20px}td:last-child,th:last-child{padding-right:20px}
tbody tr+tr>*{border-top:1px solid var(--line)}
.edge{border-left:1px solid var(--line)}
td small{display:block;color:var(--soft);font-size:11px;line-height:1.2}
.part{background:linear-gradient(90deg,color-mix(in srgb,var(--c) 26%,transparent) var(--p),
transparent var(--p))}
.charts{display:grid;grid-template-columns:minmax(0,1fr);gap:16px}
.charts .card{margin:0}
.panels{display:grid;gap:14px 26px;
grid-template-columns:repeat(auto-fit,minmax(min(480px,100%),1fr))}
.panels.alone{grid-template-columns:minmax(0,1fr)}
.panel{overflow-x:auto}
.panel svg{min-width:480px}.alone .panel svg{min-width:760px}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font-family:var(--sans);fill:var(--soft);font-size:12.5px}
svg .axis{font-size:13px}svg .name{fill:var(--ink);font-size:12.5px}
.grid{stroke:var(--line);fill:none}
.line{stroke:var(--c);stroke-width:2.4;fill:none;stroke-linejoin:round;stroke-linecap:round}
.limit{stroke:var(--c);stroke-width:1.6;stroke-dasharray:5 5;fill:none;opacity:.75}
.band{fill:var(--c);opacity:.16}
.dot{fill:var(--c);stroke:var(--card);stroke-width:1.4}
.legend{display:flex;flex-wrap:wrap;gap:6px 18px;margin:12px 0 0;padding:0;list-style:none;
font-size:13px;color:var(--soft)}
.legend li{display:flex;align-items:center;gap:7px}
.legend svg{width:26px;flex:none}
.failed{margin:14px 0 0;padding:0;list-style:none;font-size:13.5px;color:var(--soft)}
.failed b{color:var(--bad);font-weight:600}
dl{display:grid;grid-template-columns:max-content 1fr;gap:7px 22px;margin:0}
dt{font-weight:600}dd{margin:0;color:var(--soft)}
code{font-family:var(--mono);font-size:12.5px;overflow-wrap:anywhere}
@media(max-width:640px){main{padding:28px 14px 48px}dl{grid-template-columns:1fr}
dd{margin-bottom:8px}
.bars{grid-template-columns:1fr max-content;grid-auto-flow:dense}
.track{grid-column:1/-1;margin-bottom:6px}}
@media print{body{background:#fff}.card{break-inside:avoid}}
"""
