"""Which variables a workspace may give its kernels and terminals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maestro_core.environment import ALLOWED_NAMES, ALLOWED_PREFIXES, check_environment, is_protected
from maestro_core.errors import MaestroError


def test_the_example_of_a_workspace_template_passes() -> None:
    given = {"PYTHONPATH": "/workspace", "JUPYTER_ENABLE_LAB": "yes"}
    assert check_environment(given) == given


@pytest.mark.parametrize(
    "name", ["TZ", "LC_TIME", "OMP_NUM_THREADS", "NUMEXPR_MAX_THREADS", "HF_HOME", "APP_MODE", "MY_TABLE"]
)
def test_names_of_the_list_and_of_ones_own_pass(name: str) -> None:
    assert check_environment({name: "1"}) == {name: "1"}


@pytest.mark.parametrize(
    "name",
    [
        "JUPYTERHUB_API_TOKEN", "JUPYTER_CONFIG_DIR", "JUPYTER_PATH", "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_AUTH",
        "MAESTRO_TRACKING_URI", "MAESTRO_ROLE", "PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "PIP_INDEX_URL",
        "PIP_CONFIG_FILE", "UV_INDEX_URL", "UV_CONFIG_FILE", "NETRC", "PYTHONSTARTUP", "PYTHONHOME", "HOME", "BASH_ENV",
        "http_proxy", "HTTPS_PROXY", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "IPYTHONDIR", "VIRTUAL_ENV",
        "pythonpath", "APP",
    ],
)  # fmt: skip
def test_any_other_name_is_refused_by_name(name: str) -> None:
    with pytest.raises(MaestroError, match=f"cannot set '{name}'") as refusal:
        check_environment({"TZ": "UTC", name: "1"})
    assert refusal.value.code == "invalid_request"
    assert refusal.value.details["field"] == f"environment.{name}"
    assert {"PYTHONPATH", "MY_*"} <= set(refusal.value.details["allowed"])


@pytest.mark.parametrize(
    "name", ["", "MY VAR", "MY_VAR\n", "MY_é", "1MY_", "MY_=A", "MY_VAR\0", 7, None, "MY_" + "A" * 999]
)
def test_what_is_no_name_is_refused(name: object) -> None:
    with pytest.raises(MaestroError, match="cannot name a variable"):
        check_environment({name: "1"})


@pytest.mark.parametrize(
    ("value", "text"), [(4, "4"), (0.5, "0.5"), (True, "true"), (False, "false"), ("", ""), ("${X} `x` '$(y)'",) * 2]
)
def test_values_are_text_as_written(value: object, text: str) -> None:
    assert check_environment({"MY_VALUE": value}) == {"MY_VALUE": text}


@pytest.mark.parametrize("value", [None, [], {}, b"x", "a\nb", "a\0b", "\x7f", "a" * 5000])
def test_other_values_are_refused(value: object) -> None:
    with pytest.raises(MaestroError, match="The value of 'MY_VALUE'"):
        check_environment({"MY_VALUE": value})


@pytest.mark.parametrize("whole", [None, [], "PYTHONPATH=/workspace", {f"MY_{n}": "1" for n in range(51)}])
def test_the_whole_is_a_short_object(whole: object) -> None:
    with pytest.raises(MaestroError, match=r"^environment "):
        check_environment(whole)


@given(st.dictionaries(st.text(), st.text()))
def test_nothing_passes_that_the_list_does_not_name(whole: dict[str, str]) -> None:
    try:
        passed = check_environment(whole)
    except MaestroError:
        return
    assert passed == whole
    assert all(name in ALLOWED_NAMES or name.startswith(ALLOWED_PREFIXES) for name in passed)


def test_no_name_of_the_list_decides_what_the_server_runs() -> None:
    """PYTHON* is closed for servers; for kernels these three are what a workspace's editors could do anyway."""
    assert {name for name in ALLOWED_NAMES if is_protected(name)} == {
        "PYTHONPATH",
        "PYTHONHASHSEED",
        "PYTHONUNBUFFERED",
    }
