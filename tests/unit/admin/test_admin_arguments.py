"""What `relais admin` takes."""

from __future__ import annotations

import pytest

from relais_admin.arguments import Arguments, parse
from relais_admin.settings import read_settings
from relais_common.jobs.errors import SettingsError
from relais_common.jobs.inspection import ChannelFilter

CHANNEL = "org~2fmodel.6Not_bre_04tKOzNW5kuNQ"  # a test has the same name in every run
SHORT = "." + CHANNEL.rpartition(".")[2]


def parsed(line: str, *models: str) -> Arguments:
    return parse(line.split(), models or ("org/model",), {"alias": "org/model"})


def test_declared_models_are_looked_at_unless_one_is_named() -> None:
    assert parsed("queues", "a", "b").models == ("a", "b")
    assert parsed("queues --model c --model d", "a", "b").models == ("c", "d")


def test_alias_is_its_model() -> None:
    assert parsed("queues --model alias --model org/model").models == ("org/model",)
    assert parsed(f"cancel {SHORT} --model alias").channel_id == CHANNEL


def test_workers_of_all_models_are_looked_at_unless_one_is_named() -> None:
    assert parsed("workers", "a", "b").models == ()
    assert parsed("workers --model b", "a", "b").models == ("b",)


def test_channels_are_narrowed_down() -> None:
    wanted = parsed("channels --status suspect --limit 7 --latest --json")
    assert (wanted.which, wanted.limit, wanted.latest) == (ChannelFilter.SUSPECT, 7, True)
    assert wanted.json
    assert parsed("channels").which is ChannelFilter.ALL


def test_dead_alone_lists() -> None:
    assert parsed("dead").command == parsed("dead list").command == "dead list"
    assert parsed(f"dead replay {CHANNEL}").command == "dead replay"


def test_channel_is_a_whole_id_or_its_last_part_where_the_model_is_known() -> None:
    assert parsed(f"dead show {CHANNEL}", "a", "b").channel_id == CHANNEL
    assert parsed(f"dead show {SHORT}").channel_id == CHANNEL
    assert parsed(f"cancel {SHORT} --model org/model", "a", "b").channel_id == CHANNEL


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nothing",
        "dead bury",
        "dead show",
        "dead replay",
        "dead drop",
        f"dead list {CHANNEL}",
        "cancel",
        "cancel x",
        "cancel .x",
        f"cancel {CHANNEL}x",
        f"cancel {SHORT} --model a --model b",
        "channels --status completed",
        "channels --limit 0",
        "channels --limit 1001",
        "channels --limit x",
        "queues --limit 5",
        f"queues --model {'m' * 161}",
    ],
)
def test_wrong_arguments_exit_with_2_and_one_error(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parsed(line)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_part_of_an_id_without_its_model_says_what_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        parsed(f"cancel {SHORT}", "a", "b")
    assert "--model" in capsys.readouterr().err


def test_settings_are_those_of_the_services() -> None:
    settings = read_settings(
        {
            "REDIS_PORT": "6390",
            "MODELS": "a, b",
            "MODEL_ALIASES": '{"c": "d", "d": "b"}',
            "MAX_WAITING": "5",
        }
    )
    assert settings.redis.url == "redis://127.0.0.1:6390/0"
    assert (settings.models, settings.max_waiting) == (("a", "b"), 5)
    assert settings.aliases == {"c": "b", "d": "b"}
    with pytest.raises(SettingsError, match="MAX_WAITING"):
        read_settings({"MAX_WAITING": "none"})
