"""A DDP run on gloo for the tests: argv is a run directory, the number of steps and the budget ("off" for no guard)."""

import json
import sys

import torch
import torch.distributed as dist

import numguard

WIDTH = 48


def main() -> None:
    run_dir, num_steps, budget = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(WIDTH, 4 * WIDTH),
        torch.nn.GELU(),
        torch.nn.LayerNorm(4 * WIDTH),
        torch.nn.Linear(4 * WIDTH, WIDTH),
    )
    model = torch.nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses: list[str] = []
    armed: list[int] = []

    def train(guard: numguard.Guard | None) -> None:
        for step in range(num_steps):
            generator = torch.Generator().manual_seed(2 * step + rank)
            x = torch.randn(128, WIDTH, generator=generator)
            loss = (model(x) - x).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss).hex())
            if guard is not None:
                before = guard.overhead.num_armed_steps
                guard.step(loss)
                if guard.overhead.num_armed_steps > before:
                    armed.append(step + 1)

    result = {"rank": rank}
    if budget == "off":
        train(None)
    else:
        with numguard.guard(model, optimizer, run_dir=run_dir, budget=float(budget)) as guard:
            train(guard)
        result |= {"num_checks": guard.overhead.num_checks, "findings": [str(finding) for finding in guard.findings]}
    result |= {"losses": losses, "armed": armed, "weights": [float(p.double().sum()).hex() for p in net.parameters()]}
    with open(f"{run_dir}.{budget}.rank{rank}.json", "w") as file:
        json.dump(result, file)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
