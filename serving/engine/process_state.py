"""Process-global state of torch and transformers. Set where an engine begins: by the entry point of its
process, or by `LocalEngine` for the process that it runs in.
"""

from serving.engine.optimizations.torch_private import disable_profiling_executor


def prepare_graphs() -> None:
    """Set TorchScript's executor, as graphs rely on it; a second call changes nothing."""
    disable_profiling_executor()


def prepare_process() -> None:
    """Set what `optimize` relies on: the packed attention that transformers finds by name, and TorchScript's executor.

    Call it before a model is optimised; a second call changes nothing.
    """
    from serving.engine.optimizations.attention import register_attention  # with transformers

    register_attention()
    prepare_graphs()
