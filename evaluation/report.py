"""One self-contained HTML page about one sweep: pictures inlined, nothing loaded from anywhere."""

import base64
from html import escape
from string import Template

import numpy as np
from jaxtyping import UInt8

from evaluation.figures import gate_figure
from evaluation.statistics import Interval
from evaluation.summary import Curve, Summary
from flexip.images import encode_png

FEW_SUBJECTS = 10  # below this a percentile interval over subjects is known to be too narrow


def render_report(summary: Summary, sheet: UInt8[np.ndarray, "H W 3"], title: str = "Gate sweep") -> str:
    """The page as text: the sweep, the curves, a table per gamma, how it was measured and how far to trust it."""
    return _PAGE.substitute(
        title=escape(title),
        style=_STYLE,
        lead=_lead(summary),
        cards=_cards(summary),
        sheet=_inline(encode_png(sheet), "The sweep: one row per subject and prompt, one column per gamma"),
        figure=_inline(gate_figure(summary), "Identity and text alignment against gamma"),
        table=_table(summary),
        notes="".join(f"<li>{note}</li>" for note in _notes(summary)),
        protocol=_protocol(summary),
        protocol_id=summary.protocol.id,
    )


def _inline(png: bytes, alt: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}">'


def _lead(summary: Summary) -> str:
    protocol = summary.protocol
    subjects, prompts, gammas = len(summary.subjects), len(protocol.prompts), len(protocol.gammas)
    drawn = subjects * prompts * len(protocol.seeds) * gammas
    return (
        f"{_count(subjects, 'subject')}, {_count(prompts, 'prompt')}, {_count(gammas, 'setting')} of the dial, "
        f"{_count(drawn, 'picture')}. From left to right γ gives weight from the prompt to the subject; "
        "everything else, the noise included, stays the same along a row."
    )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _cards(summary: Summary) -> str:
    gammas = summary.protocol.gammas
    ends = f"γ = {gammas[0]:g} → {gammas[-1]:g}"
    cards = [
        ("identity kept", _ends(summary.identity_dino), f"DINO, {ends}"),
        ("prompt followed", _ends(summary.text), f"CLIP, {ends}"),
        ("dial against identity", _value(summary.tau), "Kendall's τ: 1 is a dial that only ever adds identity"),
        ("dial against text", _value(summary.text_tau), "Kendall's τ: −1 is a dial that only ever takes from the text"),
    ]
    return "".join(
        f'<div class="card"><b>{escape(name)}</b><span>{value}</span><small>{escape(hint)}</small></div>'
        for name, value, hint in cards
    )


def _ends(curve: Curve) -> str:
    return f"{curve.interval.mean[0]:.3f} → {curve.interval.mean[-1]:.3f}"


def _value(interval: Interval, index: int | None = None) -> str:
    mean, low, high = (
        float(values if index is None else values[index]) for values in (interval.mean, interval.low, interval.high)
    )
    if not np.isfinite(mean):
        return "–"
    spread = f' <i class="ci">[{low:.3f}, {high:.3f}]</i>' if np.isfinite(low) else ""
    return f"{mean:.3f}{spread}"


def _table(summary: Summary) -> str:
    head = "".join(f"<th>{escape(curve.name)}</th>" for curve in summary.curves)
    rows = "".join(
        f"<tr><th>{gamma:g}</th>" + "".join(f"<td>{_value(curve.interval, i)}</td>" for curve in summary.curves)
        for i, gamma in enumerate(summary.protocol.gammas)
    )
    controls = "".join(
        f"<td>{_number(curve.control)}<br><small>{escape(curve.control_name)}</small></td>" for curve in summary.curves
    )
    return (
        f"<table><thead><tr><th>γ</th>{head}</tr></thead><tbody>{rows}</tbody>"
        f"<tfoot><tr><th>control</th>{controls}</tr></tfoot></table>"
    )


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "–"


def _notes(summary: Summary) -> list[str]:
    subjects = len(summary.subjects)
    notes = [
        "The unit is the subject: values are averaged over prompts and seeds within a subject, and the brackets are "
        f"{summary.tau.confidence:.0%} percentile intervals of a bootstrap over subjects.",
        "Identity is measured by the same encoders that condition the model, which flatters it; compare settings of "
        "one model with it, not models with each other.",
        "The control under identity is the similarity to <em>another</em> subject's reference: only what lies above it "
        "is identity. The control under text is what a plain copy of the reference would score.",
    ]
    if subjects < 2:
        notes.insert(1, "<strong>One subject: nothing here can be generalised, and no interval is given.</strong>")
    elif subjects < FEW_SUBJECTS:
        few = f"Only {subjects} subjects: intervals of so small a sample are too narrow; the truth is less certain."
        notes.insert(1, f"<strong>{few}</strong>")
    return notes


def _protocol(summary: Summary) -> str:
    protocol = summary.protocol
    facts = {
        "protocol": protocol.id,
        "checkpoint": summary.checkpoint,
        **{
            f"encoder, {family}": f"{protocol.encoders.get(family, '')} {fingerprint}".strip()
            for family, fingerprint in protocol.fingerprints.items()
        },
        "pictures": f"{protocol.resolution} px, {protocol.steps} steps, guidance {protocol.guidance_scale:g}",
        "seeds": ", ".join(str(seed) for seed in protocol.seeds),
        "prompts": " · ".join(protocol.prompts),
        "subjects": ", ".join(summary.subjects),
        "reference": protocol.reference_policy,
        "identity": protocol.identity,
        "text alignment": protocol.text,
    }
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())


_STYLE = """
:root { color-scheme: light; --ink: #1c1e22; --faint: #6e737c; --rule: #dee1e6; --wash: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 48px 32px 80px; color: var(--ink); background: #fff;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 34px; line-height: 1.15; margin: 0 0 8px; letter-spacing: -0.01em; }
h2 { font-size: 20px; margin: 48px 0 12px; }
p.lead { color: var(--faint); max-width: 96ch; margin: 0 0 24px; }
img { display: block; width: 100%; height: auto; }
figure { margin: 0; border: 1px solid var(--rule); border-radius: 10px; padding: 12px; overflow-x: auto; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: 12px; margin: 0 0 28px; }
.card { background: var(--wash); border-radius: 10px; padding: 14px 16px; display: flex; flex-direction: column; }
.card b { font-size: 13px; font-weight: 600; color: var(--faint); }
.card span { font-size: 22px; font-variant-numeric: tabular-nums; white-space: nowrap; }
.card small, td small { color: var(--faint); font-size: 12.5px; }
.ci { font-style: normal; font-size: 13px; color: var(--faint); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 12px; border-bottom: 1px solid var(--rule); vertical-align: top; }
thead th { font-size: 13px; color: var(--faint); font-weight: 600; }
tfoot { background: var(--wash); }
tfoot th { font-weight: 600; }
ul { max-width: 82ch; padding-left: 20px; }
li { margin-bottom: 6px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 20px; font-size: 14px; }
dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; }
footer { margin-top: 56px; color: var(--faint); font-size: 13px; }
"""

_PAGE = Template(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<h1>$title</h1>
<p class="lead">$lead</p>
<div class="cards">$cards</div>
<figure>$sheet</figure>
<h2>Curves</h2>
<figure>$figure</figure>
<h2>Per setting</h2>
$table
<h2>How to read this</h2>
<ul>$notes</ul>
<h2>How it was measured</h2>
<dl>$protocol</dl>
<footer>FlexIP evaluation, protocol $protocol_id. Numbers of different protocols do not belong in one table.</footer>
</body>
</html>
"""
)
