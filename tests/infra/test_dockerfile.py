"""The images hold the repository and pinned packages, and run as an ordinary user."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "infra" / "Dockerfile").read_text().replace("\\\n", " ")
STAGES = dict(re.findall(r"^FROM \S+ AS (\w+)$(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL))


def test_both_targets_end_as_a_user_without_privileges():
    assert list(STAGES) == ["cpu", "cuda"]
    for body in STAGES.values():
        user = re.findall(r"^USER (\d+):(\d+)$", body, re.MULTILINE)[-1]
        assert all(int(number) > 0 for number in user)


def test_every_package_is_pinned():
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    installs = re.findall(r"pip install (.+)$", DOCKERFILE, re.MULTILINE)
    assert len(installs) == 2
    for words in installs:
        assert "-c constraints.txt" in words
        assert set(words.split("-c constraints.txt")[1].split()) - {"."} <= pinned
    assert re.match(r"FROM python:\d+\.\d+\.\d+-", DOCKERFILE[DOCKERFILE.index("FROM ") :])


def test_what_is_copied_exists():
    sources = [word for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]]
    assert {"flexip", "pipelines", "jobs", "evaluation", "constraints.txt"} <= set(sources)
    assert all((ROOT / source).exists() for source in sources)
