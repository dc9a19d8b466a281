"""One-shot import hook: declares torchvision's C++ operators `nms` and `qnms` just before torchvision is imported.

A torchvision built for CUDA cannot load its operators beside a CPU torch, and then fails at import, because it
registers fake kernels for operators that do not exist. Declaring them is enough for all that is pure Python, and
nothing here calls them. Only where torchvision fails that way, install.sh puts this file into site-packages, with a
.pth file that imports it when Python starts: it must reach every process, Ray's workers and vLLM's children too.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class _DeclareOperators:
    library: Any = None

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Python calls this while it holds the lock of all imports. So nothing may be imported here: a thread that is
        importing torch would wait for that lock, and this thread would wait for torch, for ever."""
        if name != "torchvision":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def declare_and_execute(module: ModuleType) -> None:
                cls.declare()
                execute(module)

            setattr(spec.loader, "exec_module", declare_and_execute)  # noqa: B010
        return spec

    @classmethod
    def declare(cls) -> None:
        if cls not in sys.meta_path:
            return
        sys.meta_path.remove(cls)
        import torch

        cls.library = torch.library.Library("torchvision", "DEF")  # the declaration lives as long as this object
        for operator in ("nms", "qnms"):
            cls.library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, _DeclareOperators)
