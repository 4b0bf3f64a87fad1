"""XLA flags that compile fast rather than well, as this version of XLA knows them."""

import importlib.metadata

COMPILE_FAST = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
# XLA ends the process at a flag that it does not know. This one was removed between
# jaxlib 0.10 and 0.12.
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    COMPILE_FAST += " --xla_cpu_use_fusion_emitters=false"
