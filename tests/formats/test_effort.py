"""What a work took is that of all its processes."""

import json
import time
from pathlib import Path

from smidgen.formats.effort import Effort
from smidgen.formats.workspace import Workspace


def test_seconds_are_added_up_and_memory_is_the_most_of_any_process(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    began = time.monotonic() - 100
    with Effort(workspace, lambda: 700, began) as first:
        assert 100 <= first.seconds < 200 and first.peak_ram_bytes == 700
        processor = first.processor_seconds
    with Effort(workspace, lambda: 300, began) as second:
        assert 200 <= second.seconds < 400 and second.peak_ram_bytes == 700
        assert second.processor_seconds >= processor
    with Effort(workspace, lambda: 900) as third:
        assert 200 <= third.seconds < 400 and third.peak_ram_bytes == 900


def test_a_process_that_is_killed_is_counted_too(tmp_path: Path) -> None:
    """Without its end: what it noted on its way is there."""
    killed = Effort(Workspace(tmp_path), lambda: 5)
    killed._note()
    assert json.loads((tmp_path / "effort.json").read_text())["peak_ram_bytes"] == 5
    killed.close()


def test_the_end_of_the_folder_is_not_undone(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path).step("work")
    effort = Effort(workspace)
    workspace.finish()
    effort.close()
    effort.close()
    assert not workspace.folder.exists()
