"""What others are given to keep a schedule: parsed as they would, and what it means to them."""

from __future__ import annotations

import shlex
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_up import CONFIG

from crosscast.pipeline.config.load import load
from crosscast.pipeline.errors import ConfigError
from crosscast.pipeline.schedule.export import EXPORTS, Files, exported, write
from crosscast.pipeline.schedule.export.project import portable
from crosscast.pipeline.schedule.export.systemd import calendars
from crosscast.pipeline.schedule.times import Times

BOTH = (
    "{cron: '0 3 * * 1-5', timezone: Europe/Berlin, "
    "verify: {cron: '30 5 1 * 0,7', release: stable}}"
)
REGISTRY = "oci://host/models"


@pytest.fixture(autouse=True)
def _no_cache_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CROSSCAST_CACHE")


def made(
    tmp_path: Path,
    kind: str,
    schedule: str = BOTH,
    *,
    model: str = "m",
    registry: str = REGISTRY,
    hooks: str = "{on_failure: {webhook: '${HOOK_URL:-}'}}",
    folder: Path | None = None,
    image: str = "host/image:1",
) -> Files:
    (tmp_path / "m.onnx").touch()
    path = tmp_path / "my models" / "m.yaml"
    path.parent.mkdir(exist_ok=True)
    (path.parent / "m.onnx").touch()
    text = CONFIG.format(model=model, schedule=schedule, hooks=hooks)
    path.write_text(text.replace("release: {", f"release: {{registry: '{registry}', "))
    return exported(kind, load(path), folder=folder or tmp_path, image=image)


def read(files: Files) -> list[Any]:
    (text,) = files.values()
    return list(yaml.safe_load_all(text))


class Unit(ConfigParser):
    """A unit of systemd, as far as it is an INI file."""

    def __init__(self, text: str) -> None:
        super().__init__(interpolation=None, comment_prefixes="#")
        self.optionxform = str  # type: ignore[assignment, method-assign]
        self.read_string(text)


def test_systemd_has_a_timer_and_a_service_for_each_job(tmp_path: Path) -> None:
    files = made(tmp_path, "systemd", registry="shelf")
    assert sorted(files) == [
        "crosscast-m-verify.service",
        "crosscast-m-verify.timer",
        "crosscast-m.service",
        "crosscast-m.timer",
    ]
    timer = Unit(files["crosscast-m.timer"])["Timer"]
    assert timer["OnCalendar"] == "Mon,Tue,Wed,Thu,Fri *-*-* 03:00:00 Europe/Berlin"
    assert timer["Persistent"] == "true"
    service = Unit(files["crosscast-m.service"])["Service"]
    assert service["WorkingDirectory"] == str(tmp_path)
    assert service["EnvironmentFile"] == "-%E/crosscast/m.env"
    words = shlex.split(service["ExecStart"])
    assert words[1:] == [
        *("-m", "crosscast.pipeline.cli", "release"),
        *(f"{tmp_path}/my models/m.yaml", "--bump", "patch"),
    ]
    verify = shlex.split(Unit(files["crosscast-m-verify.service"])["Service"]["ExecStart"])
    assert verify[3:] == ["verify", f"{tmp_path}/my models/shelf/m@stable"]


def test_systemd_catches_up_only_where_it_should(tmp_path: Path) -> None:
    files = made(tmp_path, "systemd", "{cron: '0 3 * * *', catch_up: skip}")
    assert Unit(files["crosscast-m.timer"])["Timer"]["Persistent"] == "false"


def test_systemd_is_told_of_the_cache_that_is_used_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSCAST_CACHE", "/a cache/100%")
    service = Unit(made(tmp_path, "systemd")["crosscast-m.service"])["Service"]
    assert service["Environment"] == '"CROSSCAST_CACHE=/a cache/100%%"'


def test_systemd_takes_other_characters_for_its_own(tmp_path: Path) -> None:
    folder = tmp_path / 'a $b 50% "c"'
    folder.mkdir()
    files = made(folder, "systemd")
    line = Unit(files["crosscast-m.service"])["Service"]["ExecStart"]
    assert '$$b 50%% \\"c\\"/my models/m.yaml' in line


# What these mean to systemd is asked of it in tests/e2e/test_schedule.py.
@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("0 3 * * *", ["*-*-* 03:00:00 UTC"]),
        ("*/15 0-2 * * *", ["*-*-* 00,01,02:00,15,30,45:00 UTC"]),
        ("* * * * *", ["*-*-* *:*:00 UTC"]),
        ("0 0 1,15 JAN,JUL *", ["*-01,07-01,15 00:00:00 UTC"]),
        ("0 0 * * 7", ["Sun *-*-* 00:00:00 UTC"]),
        ("0 0 * * 0-7", ["*-*-* 00:00:00 UTC"]),
        ("0 0 13 2 FRI", ["*-02-13 00:00:00 UTC", "Fri *-02-* 00:00:00 UTC"]),
        (
            "0 0 1-31 * 1",
            ["*-*-* 00:00:00 UTC", "Mon *-*-* 00:00:00 UTC"],
        ),
        (
            "0 0 1 * 1-7",
            ["*-*-01 00:00:00 UTC", "Sun,Mon,Tue,Wed,Thu,Fri,Sat *-*-* 00:00:00 UTC"],
        ),
    ],
)
def test_calendars_of_systemd(cron: str, expected: list[str]) -> None:
    assert calendars(Times(cron, "UTC")) == expected


def test_a_crontab_has_a_line_for_each_job(tmp_path: Path) -> None:
    folder = tmp_path / "a 50%"
    folder.mkdir()
    (text,) = made(folder, "cron").values()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines[0] == "CRON_TZ=Europe/Berlin"
    release, verify = lines[1:]
    assert release.startswith(f"0 3 * * 1-5 cd '{tmp_path}/a 50\\%' && ")
    assert shlex.split(release.replace("\\%", "%"))[11:] == [
        *("release", f"{folder}/my models/m.yaml", "--bump", "patch")
    ]
    assert verify.startswith("30 5 1 * 0,7 cd ")
    assert verify.endswith(" verify oci://host/models/m@stable")
    assert "# It needs HOOK_URL=…\n" in text


def test_github_has_a_workflow(tmp_path: Path) -> None:
    (workflow,) = read(made(tmp_path, "github"))
    assert workflow["on"]["schedule"] == [
        {"cron": "0 3 * * 1-5", "timezone": "Europe/Berlin"},
        {"cron": "30 5 1 * 0", "timezone": "Europe/Berlin"},
    ]
    assert workflow["concurrency"] == {"group": "crosscast-m", "cancel-in-progress": False}
    release, verify = workflow["jobs"]["release"], workflow["jobs"]["verify"]
    assert release["if"].endswith("github.event.schedule == '0 3 * * 1-5'")
    assert verify["if"].endswith("github.event.schedule == '30 5 1 * 0'")
    assert release["steps"][-1]["run"] == "crosscast release 'my models/m.yaml' --bump patch"
    assert verify["steps"][-1]["run"] == "crosscast verify oci://host/models/m@stable"
    assert release["env"] == {
        "HOOK_URL": "${{ secrets.HOOK_URL }}",
        "DOCKER_AUTH_CONFIG": "${{ secrets.DOCKER_AUTH_CONFIG }}",
    }


def test_github_takes_utc_as_it_is(tmp_path: Path) -> None:
    (workflow,) = read(made(tmp_path, "github", "'0 3 * * *'"))
    assert workflow["on"]["schedule"] == [{"cron": "0 3 * * *"}]


@pytest.mark.parametrize("cron", ["*/4 * * * *", "0,58 * * * *", "0,3 0 1 1 *"])
def test_github_does_nothing_every_few_minutes(tmp_path: Path, cron: str) -> None:
    with pytest.raises(ConfigError, match="more often than every 5 minutes"):
        made(tmp_path, "github", f"'{cron}'")


def test_gitlab_has_a_job_for_each_and_says_how_its_schedule_is_made(tmp_path: Path) -> None:
    files = made(tmp_path, "gitlab")
    (jobs,) = read(files)
    assert sorted(jobs) == ["crosscast-m", "crosscast-m-verify"]
    job = jobs["crosscast-m"]
    (rule,) = job["rules"]
    assert rule["if"].endswith('$CROSSCAST_JOB == "crosscast-m"')
    assert job["resource_group"] == jobs["crosscast-m-verify"]["resource_group"]
    assert job["script"][-1] == "crosscast release 'my models/m.yaml' --bump patch"
    (text,) = files.values()
    assert "--form cron='0 3 * * 1-5' --form cron_timezone=Europe/Berlin" in text
    assert "HOOK_URL, DOCKER_AUTH_CONFIG" in text


def test_kubernetes_has_a_cron_job_for_each(tmp_path: Path) -> None:
    claim, release, verify = read(made(tmp_path, "kubernetes", model="my_model.v1"))
    assert claim["kind"] == "PersistentVolumeClaim"
    assert [it["metadata"]["name"] for it in (claim, release, verify)] == [
        *("crosscast-my-model-v1", "crosscast-my-model-v1", "crosscast-my-model-v1-verify")
    ]
    spec = release["spec"]
    assert (spec["schedule"], spec["timeZone"]) == ("0 3 * * 1-5", "Europe/Berlin")
    assert spec["concurrencyPolicy"] == "Forbid"
    assert "startingDeadlineSeconds" not in spec
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "host/image:1"
    assert container["command"] == ["crosscast", "release", "my models/m.yaml", "--bump", "patch"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert verify["spec"]["schedule"] == "30 5 1 * 0"


def test_kubernetes_is_given_a_minute_where_nothing_is_caught_up(tmp_path: Path) -> None:
    _, job = read(made(tmp_path, "kubernetes", "{cron: '0 3 * * *', catch_up: skip}"))
    assert job["spec"]["startingDeadlineSeconds"] == 60
    assert job["spec"]["timeZone"] == "Etc/UTC"


def test_names_of_kubernetes_are_not_too_long_and_differ(tmp_path: Path) -> None:
    names = [it["metadata"]["name"] for it in read(made(tmp_path, "kubernetes", model="m" * 60))]
    assert all(len(name) <= 52 for name in names)
    assert len({(name, index == 0) for index, name in enumerate(names)}) == 3


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("0 3 * * *", "0 3 * * *"),
        ("0 7 7 7 MON-FRI", "0 7 7 7 MON-FRI"),
        ("0 3 * * 7", "0 3 * * 0"),
        ("0 3 * * 5-7", "0 3 * * 0,5,6"),
        ("0 3 * * 1-7/2", "0 3 * * 0,1,3,5"),
    ],
)
def test_sunday_has_one_number(cron: str, expected: str) -> None:
    assert portable(cron) == expected


@pytest.mark.parametrize("kind", ["github", "gitlab", "kubernetes"])
@pytest.mark.parametrize("registry", ["shelf", "https://host/models", "file:///models"])
def test_where_no_files_are_kept_a_registry_is_needed(
    tmp_path: Path, kind: str, registry: str
) -> None:
    with pytest.raises(ConfigError, match=r"release\.registry: \w+ keeps no files between runs"):
        made(tmp_path, kind, registry=registry)


@pytest.mark.parametrize("kind", ["github", "gitlab", "kubernetes"])
def test_elsewhere_a_config_is_found_from_the_root_of_the_project(
    tmp_path: Path, kind: str
) -> None:
    with pytest.raises(ConfigError, match="run this at the root of the project"):
        made(tmp_path, kind, folder=tmp_path / "other")


@pytest.mark.parametrize("kind", EXPORTS)
def test_no_secret_is_written(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_URL", "https://host/secret")
    assert "secret/" not in (text := str(made(tmp_path, kind)))
    assert "host/secret" not in text
    with pytest.raises(ConfigError, match="would be written into the export"):
        made(tmp_path, kind, registry="s3://me:secret@bucket/models")


def test_kubernetes_needs_an_image(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --image NAME"):
        made(tmp_path, "kubernetes", image="")


def test_another_place_is_told_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        made(tmp_path, "systmd")
    assert "did you mean 'systemd'?" in str(refused.value)


def test_files_are_written_where_they_can_be(tmp_path: Path) -> None:
    files = made(tmp_path, "systemd")
    paths = write(files, tmp_path / "new" / "units")
    assert {path.name: path.read_text() for path in paths} == files
    with pytest.raises(ConfigError, match="cannot write"):
        write(files, tmp_path / "m.onnx")
