"""Runtimes made up for tests: the program on PyTorch, after a pause. Written beside a config folder of the user's."""

CODE = '''
import time
from dataclasses import dataclass
from typing import ClassVar

from qbench.errors import RuntimeUnavailable
from qbench.runtime.torch_runtime import TorchRuntime


class Executable:
    def __init__(self, inner, kind, pause):
        self.inner, self.kind, self.pause = inner, kind, pause

    def __call__(self, images):
        time.sleep(self.pause(len(images)) if len(images) <= 32 else 0)
        return self.inner(images)


@dataclass(frozen=True)
class Paused:
    """kind: what it says it is; per_call, per_image: seconds it sleeps; shift: added to the first class's logit."""

    kind: str = "float"
    per_call: float = 0.0
    per_image: float = 0.0
    shift: float = 0.0
    name: ClassVar[str] = "paused"

    def supports(self, program):
        return None

    def load(self, path, *, threads):
        inner = TorchRuntime().load(path, threads=threads)

        def shifted(images):
            logits = inner(images).clone()
            logits[:, 0] += self.shift
            return logits

        return Executable(shifted, self.kind, lambda size: self.per_call + size * self.per_image)


class Refusing:
    name = "refusing"

    def supports(self, program):
        return "has no form for it"


class Dying:
    name = "dying"

    def supports(self, program):
        return None

    def load(self, path, *, threads):
        raise RuntimeError("wheels came off")


class Late:
    name = "late"

    def supports(self, program):
        return None

    def load(self, path, *, threads):
        raise RuntimeUnavailable("needs its library after all")


class Uninstalled:
    name = "uninstalled"

    def __init__(self):
        raise RuntimeUnavailable("needs its library")
'''
