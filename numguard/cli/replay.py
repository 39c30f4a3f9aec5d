"""``numguard replay``: one call that was found wrong, run and judged again."""

from json import dumps
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from numguard.errors import InputError
from numguard.inquiry import checked_operators
from numguard.records.capsule import read_capsule
from numguard.records.lines import as_plain
from numguard.report.inert_text import inert
from numguard.shadow.call import mutated_arguments, overload_name
from numguard.shadow.replay import arguments_of
from numguard.verification import Verdict, verify


def replay_call(capsule: Path, /, *, json: Annotated[bool, Parameter(negative=())] = False) -> int:
    """Run the call in a capsule again on this machine, and say whether its result is still wrong.

    Exits with 0 if a correct implementation could return it, 1 if not, 2 if the file is not a capsule.

    Parameters
    ----------
    capsule
        The safetensors file beside a finding, which capture="capsule" writes.
    json
        Print JSON instead of sentences.
    """
    kept = read_capsule(capsule)
    op = kept.content.get("op")
    overloads = {overload_name(overload): overload for overload in checked_operators()}
    if not isinstance(op, str) or op not in overloads:
        raise InputError(capsule, "op", f"{inert(op, 80)} is not an operator that this version of numguard checks")
    overload, given = overloads[op], arguments_of(kept, capsule)
    names = {argument.name for argument in overload._schema.arguments}
    wrong = sorted(set(given) - names)
    if wrong:
        raise InputError(capsule, f"arguments.{inert(wrong[0], 60)}", f"is not an argument of {op}")
    args, kwargs = [], {}
    for argument in overload._schema.arguments:
        if argument.name in given:
            if argument.kwarg_only:
                kwargs[argument.name] = given[argument.name]
            else:
                args.append(given[argument.name])
    try:
        verdict = verify(overload, *args, **kwargs)
    except (RuntimeError, TypeError, IndexError, ValueError) as failure:
        reason = str(failure).partition("\n")[0]
        raise InputError(capsule, "arguments", f"{op} does not take them: {reason[:200]}") from None
    if json:
        print(_json(op, verdict))
        return int(bool(verdict.findings))
    where = "overwrites its inputs; judged on copies" if mutated_arguments(overload) else "judged in full"
    print(f"{op}: {verdict.num_elements} elements, {where}")
    print(
        f"value {verdict.value!r}, exact {verdict.shadow_value!r}, error {verdict.forward_error:.6g}, "
        f"bound {verdict.error_bound:.6g}, ratio {verdict.ratio:.6g}"
    )
    for finding in verdict.findings:
        print(inert(str(finding)))
    if verdict.ok and not verdict.findings:
        print("The result is one that a correct implementation returns: what was found does not come back here.")
    return int(bool(verdict.findings))


def _json(op: str, verdict: Verdict) -> str:
    names = ("ok", "num_elements", "value", "shadow_value", "forward_error", "error_bound", "ratio")
    content = {"op": op, **{name: getattr(verdict, name) for name in names}}
    findings = [{"kind": f.kind, "severity": f.severity, "message": f.message} for f in verdict.findings]
    return dumps(as_plain({**content, "findings": findings}), allow_nan=False, indent=1)
