"""One piece of work by several processes that train together: of this machine, or of a Ray cluster."""

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def run_together(work: Callable[[bool], T], workers: int, ray: str | None, resume: bool) -> T:
    """Call `work(resume)` in each of `workers` processes, and return what the first of them returns.

    work: a function of a module, or a `partial` of one; it joins the others with `distillation.team.team.joined`. ray:
    address of a cluster to start them on. Where one dies, all begin again with `work(True)`. A script that calls this
    needs its `if __name__ == "__main__":`.
    """
    if ray is not None:
        from smidgen.distillation.team.cluster import train_on_ray

        return train_on_ray(work, workers, ray, resume=resume, gpus=torch.cuda.is_available())
    from smidgen.distillation.team.launch import launch

    return launch(work, workers, resume=resume)
