"""Settings are read from an injected mapping, SageMaker's names first."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.setting_values import Share, parse_bytes
from serving.settings import SettingError, Settings, unknown_settings


def test_without_an_environment_everything_has_a_default() -> None:
    """An empty mapping is a working configuration."""
    settings = Settings.from_env({})

    assert (settings.port, settings.http_server, settings.model_root) == (8080, "granian", Path("/opt/ml/models"))
    assert settings.memory_budget == Share(80.0)


def test_sagemakers_own_names_win() -> None:
    """The platform decides where both are set."""
    env = {"SAGEMAKER_BIND_TO_PORT": "9000", "WHARF_PORT": "1", "SAGEMAKER_MULTI_MODEL": "True"}
    settings = Settings.from_env(env)

    assert (settings.port, settings.is_platform) == (9000, True)


def test_an_empty_value_counts_as_unset() -> None:
    """A blank line in a compose file is no mistake."""
    assert Settings.from_env({"WHARF_PORT": " "}).port == 8080


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WHARF_PORT", "80800"),
        ("WHARF_MEMORY_BUDGET", "lots"),
        ("WHARF_MEMORY_BUDGET", "0%"),
        ("WHARF_MEMORY_BUDGET", "101%"),
        ("WHARF_HTTP_SERVER", "apache"),
        ("SAGEMAKER_MULTI_MODEL", "maybe"),
        ("SAGEMAKER_SAFE_PORT_RANGE", "9-8"),
        ("WHARF_MAX_IN_FLIGHT", "0"),
        ("WHARF_DRAIN_TIMEOUT", "nan"),
        ("SAGEMAKER_MAX_PAYLOAD_IN_MB", "six"),
    ],
)
def test_a_bad_value_names_the_variable_the_value_and_what_was_wanted(name: str, value: str) -> None:
    """The error teaches."""
    with pytest.raises(SettingError, match=f"Setting {name} has value '{value}' and wants "):
        Settings.from_env({name: value})


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("10", 10),
        ("512MiB", 512 << 20),
        ("1.5 GiB", 3 << 29),
        ("2g", 2 << 30),
        ("10b", 10),
        ("3 KB", 3072),
        ("1TiB", 1 << 40),
    ],
)
def test_bytes_are_read_with_their_units(text: str, count: int) -> None:
    """Units are powers of 1,024 however they are spelled."""
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "x", "-1", "GiB", "1.5.2k", "nan", "inf", "1e9", "9" * 30, "0"])
def test_other_texts_are_no_bytes(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match=r".*"):
        parse_bytes(text)


def test_payload_limits_are_in_mebibytes_under_sagemakers_name() -> None:
    """SAGEMAKER_MAX_PAYLOAD_IN_MB counts megabytes, WHARF_MAX_BODY_BYTES bytes."""
    assert Settings.from_env({"SAGEMAKER_MAX_PAYLOAD_IN_MB": "100"}).max_body_bytes == 100 << 20


def test_a_misspelt_setting_is_warned_about_with_the_nearest_name() -> None:
    """Nothing is silently ignored."""
    assert unknown_settings({"WHARF_MEMORY_BUGDET": "1", "PATH": "x", "WHARF_PORT": "1"}) == [
        "Setting WHARF_MEMORY_BUGDET does not exist and has no effect: did you mean WHARF_MEMORY_BUDGET?"
    ]


def test_a_variable_of_another_container_is_named_as_without_effect() -> None:
    """What people set for the Triton or TensorFlow containers does nothing here, and we say so."""
    assert unknown_settings({"SAGEMAKER_TFS_INSTANCE_COUNT": "2", "SAGEMAKER_MULTI_MODEL": "true"}) == [
        "Variable SAGEMAKER_TFS_INSTANCE_COUNT has no effect: set min_workers in a model's wharf.toml instead."
    ]
    assert unknown_settings({"SAGEMAKER_NO_SUCH": "2"}) == ["Variable SAGEMAKER_NO_SUCH has no effect in this version."]


def test_the_default_model_of_tensorflows_container_is_ours() -> None:
    """Under its variable."""
    env = {"SAGEMAKER_TFS_DEFAULT_MODEL_NAME": "resnet"}
    assert (Settings.from_env(env).default_model, unknown_settings(env)) == ("resnet", [])


def test_variables_of_sagemakers_triton_container_say_what_to_do_instead() -> None:
    """Those that name something are acted on."""
    env = {"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "resnet", "SAGEMAKER_TRITON_LOG_VERBOSE": "true"}
    assert unknown_settings(env) == []
    assert (Settings.from_env(env).default_model, Settings.from_env(env).log_level) == ("resnet", "debug")
    assert Settings.from_env({"SAGEMAKER_TRITON_LOG_VERBOSE": "false"}).log_level == "info"
    assert unknown_settings({"SAGEMAKER_TRITON_GRPC_PORT": "8001"}) == [
        "Variable SAGEMAKER_TRITON_GRPC_PORT has no effect: set WHARF_GRPC_PORT instead."
    ]


def test_a_second_port_outside_the_safe_range_is_refused() -> None:
    """SAGEMAKER_SAFE_PORT_RANGE binds WHARF_GRPC_PORT."""
    settings = Settings.from_env({"WHARF_GRPC_PORT": "9000", "SAGEMAKER_SAFE_PORT_RANGE": "25000-25999"})

    with pytest.raises(SettingError, match="25000-25999"):
        settings.check()


def test_a_secret_is_not_repeated_in_an_error() -> None:
    """Secrets never reach a log; the token takes any text, so no error can name it."""
    assert Settings.from_env({"WHARF_ADMIN_TOKEN": "s3cret"}).admin_token == "s3cret"
