"""A run whose every string is an attack on whoever looks at it."""

from pathlib import Path
from typing import Any

from numguard.records import EventLog, finding_fields
from tests.report.recorded_run import coverage_fields, start_fields, write_steps, wrong_sum

SCRIPTS = (
    "<script>document.title='owned'</script>",
    "<img src=x onerror=document.title='owned'>",
    "</script><script>document.title='owned'</script>",
    "</pre></td></table><svg onload=document.title='owned'>",
    '" onmouseover="document.title=\'owned\'" x="',
    "' onfocus='document.title=1' autofocus='",
    "{{7*7}}{% for x in [].__class__.__mro__ %}{{x}}{% endfor %}${7*7}<%= 7*7 %>",
    "javascript:document.title='owned'",
    "data:text/html,<script>document.title='owned'</script>",
    "<a href='javascript:document.title=1'>click</a>",
    "<!--<script>--><iframe src=https://attacker.example/></iframe>",
    "<link rel=stylesheet href=https://attacker.example/x.css>",
    "<style>@import url(https://attacker.example/x.css)</style>",
    "<base href=https://attacker.example/><form action=/x><input></form>",
    "<meta http-equiv=refresh content='0;url=https://attacker.example/'>",
    "%{text}<br>%{x}</b><a href='https://attacker.example/'>x</a>",
    "]]><x:script xmlns:x='http://www.w3.org/1999/xhtml'>document.title='owned'</x:script>",
    "\u2028document.title='owned'\u2029",
)
TERMINAL = (
    "\x1b[2J\x1b[1;1Hall is well",
    "\x1b]8;;https://attacker.example/\x1b\\click\x1b]8;;\x1b\\",
    "\x1b]52;c;cm0gLXJmIC8=\x07",
    "STOP\rGO ON",
    "\x07\x08\x7f\x9b31m\x85",
    "a\u202eevil\u202c b\u2066c\u2069 \u200f\ufeff",
    "[bold red]markup[/] :skull: [link=https://attacker.example]x[/link]",
)
ATTACKS = (*SCRIPTS, *TERMINAL, "x" * 10_000)


def write_hostile_run(run_dir: Path, attack: str, *, rank: int = 0) -> Path:
    """Write a run in which the attack stands wherever a string may stand."""
    log = EventLog(run_dir, rank=rank, attempt=0)
    start: dict[str, Any] = start_fields(rank, world_size=rank + 1)
    strings = dict.fromkeys(("version", "torch", "host", "device", "device_uuid"), attack)
    log.write("start", **{**start, **strings, "checks": [attack], "seed": attack})
    write_steps(log, 40)
    names = ("host", "device", "phase", "op", "module", "location", "message", "advice", "capsule", "fingerprint")
    everywhere: dict[str, Any] = {**dict.fromkeys(names, attack), "evidence": {attack: [attack, {attack: attack}]}}
    for severity, kind in (("error", "wrong_result"), ("warning", "degraded"), ("notice", "hard_batch")):
        finding = wrong_sum(
            id=f"{severity} {attack}", severity=severity, kind=kind, first_caught_step=9, rank=rank, **everywhere
        )
        log.write("finding", **finding_fields(finding))
    symptom = wrong_sum(id="symptom", first_caught_step=20, rank=rank, cause=f"error {attack}", **everywhere)
    log.write("finding", **finding_fields(symptom))
    text = dict.fromkeys(("op", "module", "location", "phase", "dtype", "shape"), attack)
    coverage = coverage_fields()
    sites = [{**site, **text, "op": f"{attack}{index}"} for index, site in enumerate(coverage["sites"])]
    log.write("coverage", **{**coverage, "sites": sites, "uncovered": {attack: 3}})
    log.write("lost_updates", step=1, shares={attack: 0.5}, window=10)
    log.write("selftest", step=1, passed=False, stage=attack, detail=attack)
    log.write("origin", step=1, block=attack, phase=attack, detail=attack)
    log.write("burst", step=1, reason=attack, steps=2)
    log.write("dropped", count=3, reason=attack)
    log.write("stop", step=40, time=1.7e9, reason=attack)
    log.close()
    assert log.num_dropped == 0, log.last_failure
    return run_dir
