"""The files of the playground; tests/faults has its use in a browser."""

import hashlib
import re

from fastapi.testclient import TestClient
from service import stand

from jobs.serving.access import AccessConfig
from jobs.serving.playground import CREATURES, PAGE


def test_the_page_needs_no_key_and_may_load_nothing_but_itself(tmp_path):
    access = AccessConfig(keys={"alice": hashlib.sha256(b"key").hexdigest()})
    with TestClient(stand(tmp_path, access).app) as client:
        policy = client.get("/").headers["content-security-policy"]
        assert {"default-src 'none'", "script-src 'self'", "connect-src 'self'"} < set(policy.split("; "))
        assert "unsafe" not in policy
        for file in PAGE.iterdir():
            assert re.findall(r"https?://(?!www\.w3\.org/)", file.read_text()) == []
            assert client.get(f"/playground/{file.name}").content == file.read_bytes()
        facts = client.get("/playground/service.json").json()
        assert facts["keys"] is True
        for subject in facts["subjects"]:
            assert hashlib.sha256(client.get(f"/{subject['url']}").content).hexdigest() == subject["sha256"]
        assert client.get(f"/playground/creatures/{len(CREATURES)}.png").status_code == 404
        for path in ("/v1/subjects", "/playground/../v1/subjects", "/metrics"):
            assert client.get(path).status_code == 401
