"""The author's process with a wheel whose settings begin with something else."""

from smidgen.engines.llama_cpp import author_child, library

library._DEFAULTS = (512, 2048, 1, 512)
author_child.main()
