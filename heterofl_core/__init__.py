"""HeteroFL (Diao, Ding, Tarokh, ICLR 2021): models, federation, records and report.

Start with `heterofl.py`: slicing and aggregation, the idea of the paper. Reading records and drawing
the report needs no torch, so `build_model` is imported only when it is asked for.
"""

from typing import Any

from heterofl_core.processor import avoid_faulty_kernels

__all__ = ["build_model"]


def __getattr__(name: str) -> Any:
    if name == "build_model":
        from heterofl_core.models import build_model

        return build_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


avoid_faulty_kernels()
