"""What our own description promises holds: no request that it allows, or nearly, is answered outside it.

The real front on a real engine with a tiny random model; requests are made up by schemathesis, NUL characters included.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, settings
from schemathesis import Case
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)  # fmt: skip

from smidgen.serving.front import Door, build_front
from smidgen.serving.hosting import Hosted
from smidgen.serving.openapi import openapi
from smidgen.serving.pool import Pool
from smidgen.serving.upstream import LocalUpstream
from tests import tiny_models
from tests.serving.requests.conftest import TEMPLATE


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tiny_models.write_model(
        tmp_path_factory.mktemp("tiny") / "tiny.gguf",
        "llama",
        tiny_models.LLAMA_KEYS,
        tiny_models.gguf_tensors(tiny_models.random_decoder(tiny_models.LLAMA_CONFIG)),
        others={"tokenizer.chat_template": TEMPLATE},
    )
    hosted = Hosted.check(str(path), ctx_size=256, parallel=2)
    pool = Pool([hosted], lambda one: LocalUpstream(one.start(1), one.parallel), 2**34, None, 64)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = uvicorn.Server(
            uvicorn.Config(build_front(pool, Door(hosts={"127.0.0.1"})), log_config=None, lifespan="on")
        )
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join()


EXAMPLES = int(os.environ.get("SMIDGEN_EXAMPLES", "25"))  # of each operation; CONTRIBUTING.md says when to try 200

schema = schemathesis.openapi.from_dict(openapi(models=("tiny",)))
schema.config.phases.coverage.enabled = False  # made at once for all, which takes minutes


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
def test_answers_keep_to_the_description(case: Case, address: str) -> None:
    response = case.call(base_url=address, timeout=60)
    no_infill = case.path == "/infill" and response.status_code == 501  # the tiny model has no tokens for it
    assert response.status_code < 500 or no_infill, response.text
    case.validate_response(
        response, checks=[status_code_conformance, content_type_conformance, response_schema_conformance]
    )
