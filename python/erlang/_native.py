"""The native module inside the Erlang VM, and outside of it what stands in for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import _py_reactor as native
else:
    try:
        import _py_reactor as native
    except ModuleNotFoundError:
        from erlang import _plain as native

__all__ = ["native"]
