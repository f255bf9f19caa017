"""Which engine computes: llama.cpp beside the front, several of them on a Ray cluster, or vLLM."""

from dataclasses import dataclass

from smidgen import progress
from smidgen.bounds import one_of, within
from smidgen.errors import SmidgenError
from smidgen.serving.agreement import disagreements
from smidgen.serving.hosting import Hosted
from smidgen.serving.upstream import LocalUpstream, Upstream

KINDS = ("llama.cpp", "vllm")
_MOST_REPLICAS = 1024


@dataclass(frozen=True)
class Engines:
    """kind: one of KINDS.  threads: of each.  replicas: how many on the Ray cluster at `ray`; None for none.

    Raises SmidgenError for what does not go together.
    """

    kind: str = "llama.cpp"
    threads: int | None = None
    replicas: int | None = None
    ray: str | None = None

    def __post_init__(self) -> None:
        one_of("engine", self.kind, KINDS)
        within("replicas", self.replicas, 1, _MOST_REPLICAS)
        if (self.replicas is None) != (self.ray is None):
            raise SmidgenError("--replicas N and --ray ADDRESS go together; --ray local starts a cluster here.")
        if self.kind == "vllm" and self.replicas is not None:
            raise SmidgenError("--replicas start llama.cpp; leave out --engine vllm.")

    def refuse_together(self, **options: object) -> None:
        """Raises SmidgenError for options that this engine does not have."""
        given = [name for name, value in options.items() if value is not None]
        if self.kind == "vllm" and given:
            raise SmidgenError(f"--{given[0]} is for llama.cpp; leave out --engine vllm.")

    def start(self, model: Hosted) -> Upstream:
        """A model's engine, loaded. Vectors of texts always come from a llama.cpp on this machine."""
        if self.kind == "vllm":
            return self._vllm(model)
        if self.replicas is not None and self.ray is not None and not model.embeds:
            return self._replicas(model, self.replicas, self.ray)
        server = model.start(self.threads)
        if not model.embeds:
            for line in disagreements(server, model.facts, model.template):
                progress.say(f"Note on {model.name}: {line}")
        return LocalUpstream(server, model.parallel)

    def _replicas(self, model: Hosted, replicas: int, address: str) -> Upstream:
        from smidgen.serving.replicas import RayUpstream

        return RayUpstream(
            model.path, replicas=replicas, address=address, ctx_size=model.context, parallel=model.parallel,
            threads=self.threads, name=model.name, draft=model.draft, lora=model.lora,
            template=model.engine_template(), kv=model.kv,
        )  # fmt: skip

    def _vllm(self, model: Hosted) -> Upstream:
        from smidgen.engines.vllm import VllmServer

        server = VllmServer(
            model.origin.path, ctx_size=model.context, parallel=model.parallel, threads=self.threads, name=model.name
        )
        return LocalUpstream(server, model.parallel)
