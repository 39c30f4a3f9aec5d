"""Reproducers: one stand-alone script for each finding, with nothing in it but torch.

A script exits with 1 where the build is wrong and with 0 where it is right. It prints the value, what float64 says,
and what the difference may be.
"""

import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Final

from numguard.acceptance.adversaries import DATA, GROWING, LAYOUTS, fits
from numguard.acceptance.examination import Sighting
from numguard.acceptance.subjects import Input, Subject
from numguard.acceptance.trials import Trial

RUN: Final = "run = run_eagerly\n"  # the call as this build computes it
ACCURATE_RUN: Final = """
def run(**tensors):
    dtype = next(x.dtype for x in tensors.values() if x.is_floating_point())
    wide = {name: x.double() if x.is_floating_point() else x for name, x in tensors.items()}
    return run_eagerly(**wide).to(dtype)
"""

_OUTPUTS: Final = """
def outputs_of(value):
    items = [value] if isinstance(value, torch.Tensor) else value
    return [item for item in items if isinstance(item, torch.Tensor) and item.is_floating_point()]
"""

_COTANGENT: Final[Mapping[bool, str]] = {
    True: """
def flowing_back(out):
    return torch.ones(out.shape, dtype=out.dtype)
""",
    False: """
def flowing_back(out):
    torch.manual_seed(1)
    return torch.randn(out.shape, dtype=torch.float64).mul(8).round().div(8).to(out.dtype)
""",
}

_AGAINST_FLOAT64: Final = """
wide = {{name: x.double().contiguous() if x.is_floating_point() else x for name, x in inputs.items()}}
computed = run(**inputs).double().reshape(-1)[{index}].item()
exact = run_eagerly(**wide).double().reshape(-1)[{index}].item()
allowed = {allowed!r}
error = abs(computed - exact)
right = error <= allowed or computed == exact or computed != computed and exact != exact
print(f"computed {{computed!r}}, exact {{exact!r}}, error {{error:.6g}}, allowed {{allowed:.6g}}")
sys.exit(0 if right else 1)
"""

_AGAINST_EQUIVALENT: Final = """
differ = run(**inputs).isnan() != run_equivalent(**inputs).isnan()
print(f"{int(differ.sum())} of {differ.numel()} elements are NaN in only one of two equivalent forms")
sys.exit(1 if differ.any() else 0)
"""

_OPERATOR: Final = '''
from torch.utils._python_dispatch import TorchDispatchMode


def widened(value):
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.detach().double().clone()
    if isinstance(value, torch.dtype) and value.is_floating_point:
        return torch.float64
    return type(value)(widened(item) for item in value) if isinstance(value, (list, tuple)) else value


class Watch(TorchDispatchMode):
    """Runs one operator a second time, in float64."""

    calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {{}}
        if str(func) != "{overload}":
            return func(*args, **kwargs)
        exact = func(*widened(args), **{{name: widened(value) for name, value in kwargs.items()}})
        computed = func(*args, **kwargs)
        self.calls.append((outputs_of(computed), outputs_of(exact)))
        return computed


with Watch():
    run(**inputs)
results, references = Watch.calls[{call}]
computed = results[{output}].double().reshape(-1)[{index}].item()
exact = references[{output}].reshape(-1)[{index}].item()
allowed = {allowed!r}
error = abs(computed - exact)
print(f"computed {{computed!r}}, exact {{exact!r}}, error {{error:.6g}}, allowed {{allowed:.6g}}")
sys.exit(0 if error <= allowed else 1)
'''

_CRASH: Final = """
if len(sys.argv) == 1:
    code = subprocess.run([sys.executable, __file__, "child"]).returncode
    print(f"the child process ended with {code}")
    sys.exit(1 if code else 0)
run(**inputs)
"""


def script_of_call(subject: Subject, sighting: Sighting, index: int) -> str:
    """Return the reproducer of a result or gradient that float64 contradicts at a flat ``index``."""
    trial = sighting.trial
    body = [_run("run_eagerly", subject.expression, subject, trial, sighting.output, compiled=False)]
    body += (
        [_run("run", subject.expression, subject, trial, sighting.output, compiled=True)] if trial.compiled else [RUN]
    )
    body.append(_AGAINST_FLOAT64.format(index=index, allowed=sighting.error_bound))
    return _script(subject, sighting, body)


def script_of_equivalent(subject: Subject, sighting: Sighting) -> str:
    """Return the reproducer of two forms that must agree."""
    trial = sighting.trial
    body = [
        _run("run", subject.expression, subject, trial, sighting.output, compiled=False),
        _run("run_equivalent", subject.equivalent, subject, trial, sighting.output, compiled=False),
        _AGAINST_EQUIVALENT,
    ]
    return _script(subject, sighting, body)


def script_of_operator(
    subject: Subject, sighting: Sighting, *, overload: str, call: int, output: int, index: int, allowed: float
) -> str:
    """Return the reproducer of an operator inside a call: its ``call``-th execution, at a flat ``index``."""
    body = [
        _run("run", subject.expression, subject, sighting.trial, "", compiled=sighting.trial.compiled),
        _OPERATOR.format(overload=overload, call=call, output=output, index=index, allowed=allowed),
    ]
    return _script(subject, sighting, body)


def script_of_crash(subject: Subject, sighting: Sighting) -> str:
    """Return the reproducer of a call that ends its process."""
    body = [_run("run", subject.expression, subject, sighting.trial, "", compiled=sighting.trial.compiled), _CRASH]
    return _script(subject, sighting, body)


def _script(subject: Subject, sighting: Sighting, body: list[str]) -> str:
    trial = sighting.trial
    kinds: dict[str, Callable[..., object]] = {}
    if any(entry.role == "values" for entry in subject.inputs):
        kinds[trial.data] = DATA[trial.data]
        kinds[trial.layout] = LAYOUTS[trial.layout]
    head = [
        _quoted(f"{sighting.kind}: {sighting.message}"),
        "import subprocess" if sighting.kind == "crash" else "",
        "import sys\n\nimport torch\nimport torch.nn.functional as F\nfrom torch import Tensor\n",
        "Shape = tuple\n\n",
        *(f"{inspect.getsource(kind)}\n" for kind in kinds.values()),
        _OUTPUTS,
        _COTANGENT[trial.data in GROWING],
        f"\ntorch.set_num_threads({trial.num_threads})",
        "torch.manual_seed(0)",
        *(f"{name} = {size}" for name, size in trial.sizes),
        "inputs = {",
        *(f'    "{entry.name}": {_drawn(entry, trial)},' for entry in subject.inputs),
        "}\n",
    ]
    return "\n".join(head + body).replace("\n\n\n\n", "\n\n\n")


def _quoted(text: str) -> str:
    safe = text.replace("\\", "/").replace('"""', "'''")
    return (
        '"""'
        + textwrap.fill(safe, 116)
        + '\n\nExits with 1 where this build of torch is wrong, with 0 where it is right.\n"""\n'
    )


def _drawn(entry: Input, trial: Trial) -> str:
    shape = f"({', '.join(entry.dims)},)"
    dtype = f"torch.{trial.dtype}"
    if entry.role == "index":
        if trial.data in GROWING:
            return f"torch.zeros({shape}, dtype=torch.int64)"
        return f"torch.randint(0, {entry.limit}, {shape})"
    if entry.role == "mask":
        last = f"torch.arange({entry.dims[0]})[:, None] < {entry.dims[0]} - 1"
        return f"(torch.rand({shape}) < 0.7) & ({last})"
    if entry.role == "values":
        drawn = f"{trial.data}({shape}, {dtype})"
        return f"{trial.layout}({drawn})" if fits(trial.layout, len(entry.dims)) else drawn
    forms = {
        "signs": f"torch.where(torch.rand({shape}) < 0.5, -1.0, 1.0)",
        "unit": f"(0.01 + 0.98 * torch.rand({shape}, dtype=torch.float64))",
        "distribution": f"torch.rand({shape}, dtype=torch.float64).softmax(-1)",
        "weight": f"(0.5 + torch.rand({shape}, dtype=torch.float64))",
    }
    return f"{forms[entry.role]}.to({dtype})"


def _run(name: str, expression: str, subject: Subject, trial: Trial, output: str, *, compiled: bool) -> str:
    names = ", ".join(entry.name for entry in subject.inputs)
    lines = [f"def {name}({names}):"]
    lines += [f"    {leaf} = {leaf}.detach().requires_grad_()" for leaf in trial.gradients]
    if compiled:
        lines.append(f"    value = torch.compile(lambda {names}: ({expression}), dynamic=False)({names})")
    else:
        lines.append(f"    value = {expression}")
    lines.append("    outputs = outputs_of(value)")
    if not output.endswith(".grad"):
        number = output.partition("[")[2].rstrip("]") or "0"
        if trial.gradients and not output:
            lines += _backward(trial)
        lines.append(f"    return outputs[{number}].detach()\n\n")
    else:
        lines += _backward(trial)
        place = trial.gradients.index(output.removesuffix(".grad"))
        lines.append(f"    return gradients[{place}]\n\n")
    return "\n" + "\n".join(lines)


def _backward(trial: Trial) -> list[str]:
    asked = ", ".join(trial.gradients)
    return [
        "    attached = [out for out in outputs if out.requires_grad]",
        "    back = [flowing_back(out.detach()) for out in attached]",
        f"    gradients = torch.autograd.grad(attached, [{asked}], back, allow_unused=True) if attached else ()",
    ]
