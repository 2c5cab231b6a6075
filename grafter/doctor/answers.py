"""Findings as ``grafter doctor`` says them: JSON for programs, lines for people."""

from collections.abc import Sequence
from dataclasses import asdict

from grafter.core.model import JsonObject
from grafter.doctor.model import Call, Finding, Weight, count, lost

_WORDS = {Weight.FAULT: "LOST ", Weight.DOUBT: "maybe", Weight.NOTE: "note "}
_INSTANCE_WORDS = {Weight.FAULT: "FAULT", Weight.DOUBT: "maybe", Weight.NOTE: "note "}


def call_answer(call: Call, findings: Sequence[Finding], notes: Sequence[str] = ()) -> JsonObject:
    """``lines`` says the same in words; ``notes``: what could not be examined, and why."""
    faults = sum(finding.weight is Weight.FAULT for finding in findings)
    app = [span for span in call.spans if not span.guest]
    services = {span.step.service for span in app if span.step.service}
    examined = f"{count(len(call.app_traces), 'trace')} of the app, {count(len(app), 'span')}"
    examined += f" of {count(len(services), 'service')}" if services else ""
    openai = len(call.spans) - len(app)
    examined += f"; {count(openai, 'span')} of OpenAI's side" if openai else "; nothing of OpenAI's side"
    verdict = f"{faults} {'thing is' if faults == 1 else 'things are'} lost" if faults else "nothing lost"
    head = f"{call.query}: {verdict} ({examined})"
    return {
        "asked": call.query,
        "lost": lost(findings),
        "traces": [trace.trace_id.hex() for trace in call.app_traces],
        "findings": [finding_answer(finding) for finding in findings],
        "notes": list(notes),
        "lines": [head, *(f"  {note}" for note in notes), *_lines(findings, of_call=True)],
    }


def instance_answer(findings: Sequence[Finding], about: str = "") -> JsonObject:
    """The same of a grafter. ``about``: a line on what was asked."""
    faults = sum(finding.weight is Weight.FAULT for finding in findings)
    head = f"{count(faults, 'fault')} found" if faults else "no fault found"
    return {
        "lost": lost(findings),
        "findings": [finding_answer(finding) for finding in findings],
        "lines": [head + (f" ({about})" if about else ""), *_lines(findings, of_call=False)],
    }


def finding_answer(finding: Finding) -> JsonObject:
    """As JSON values, without what is empty."""
    return {key: value for key, value in asdict(finding).items() if value}


def _lines(findings: Sequence[Finding], *, of_call: bool) -> list[str]:
    lines: list[str] = []
    for finding in findings:
        word = (_WORDS if of_call else _INSTANCE_WORDS)[finding.weight]
        lines += ["", f"{word}  {finding.sentence}"]
        width = max((len(each.role) for each in finding.evidence), default=0)
        for each in finding.evidence:
            span = f"  span {each.span_id}" if each.span_id else ""
            lines.append(f"       {each.role:<{width}}  {each.service}  {each.span}  trace {each.trace_id}{span}")
        if finding.remedy:
            lines.append(f"       to mend it: {finding.remedy}")
        for line in finding.lines:
            lines += [f"         {line.where} ({line.language}):", f"             {line.code}"]
        if finding.page:
            lines.append(f"       {finding.page}")
    return lines
