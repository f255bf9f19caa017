"""How the files of the suite are shared between two processes (pytest-xdist): see `make test`.

A file stays in one process, since its tests share servers and cuts. Files are taken one after the other; those that
take longest come first, so that no process is left alone with one of them at the end.
"""

from typing import Any

from xdist.scheduler import LoadFileScheduling

#: Files that never run at the same time: each starts a Ray, which takes memory, and looks for its processes.
_ONE_AFTER_THE_OTHER = ("tests/distillation/team/test_cluster.py", "tests/serving/test_replicas.py")
#: Files and folders that take long, or have tests of over ten seconds.
_LONGEST = (
    "tests/cutting/test_real_cut.py",
    "tests/cutting/",
    "tests/serving/test_faults.py",
    "tests/cli/",
    *_ONE_AFTER_THE_OTHER,
    "tests/distillation/team/",
    "tests/showing/test_page.py",
    "tests/test_privacy.py",
    "tests/quantization/test_writable_types.py",
    "tests/quantization/test_damage_measured.py",
    "tests/parity/test_families.py",
    "tests/docs/test_python_page.py",
    "tests/measuring/test_answers_page.py",
    "tests/engines/",
    "tests/serving/",
)


class LongestFirst(LoadFileScheduling):
    """As `--dist loadfile`, which begins with the files that have most tests."""

    def __init__(self, config: Any, log: Any) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return _ONE_AFTER_THE_OTHER[0] if file in _ONE_AFTER_THE_OTHER else file


def place_in_line(nodeid: str) -> int:
    """Smaller for what should begin earlier."""
    return next((place for place, name in enumerate(_LONGEST) if nodeid.startswith(name)), len(_LONGEST))
