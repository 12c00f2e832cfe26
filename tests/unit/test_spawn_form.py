"""The spawn form's template: what it offers, what it fills in, what it escapes, and what a browser sends from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup
from jinja2 import ChoiceLoader, DictLoader, Environment, FileSystemLoader, StrictUndefined

from maestro_core.launches import FormView, ImageView, OwnAmounts, ProfileView, TemplateView, ask_from_form, parse_ask
from maestro_core.profiles import Profile, choose
from maestro_core.resources import Resources, show_memory
from maestro_core.roles import Role
from maestro_core.workspaces import ServersShown
from maestro_spawner.form import filled, fitting

TEMPLATES = Path(__file__).parents[2] / "templates" / "pages"
HOSTILE = "<script>alert('x')<script><img src=x onerror=alert(1)>\"'&"
GIB = 1024**3


def profile(name: str, refusal: str | None = None, **values: Any) -> ProfileView:
    known = {"title": name.capitalize(), "description": "", "cpu": 2.0, "memory": 4 * GIB, "gpu": 0, "gpu_type": None}
    known |= values
    return ProfileView(
        name=name, memory_shown=show_memory(known["memory"]), allowed=refusal is None, refusal=refusal, **known
    )


SMALL, LARGE = profile("small"), profile("large", cpu=8.0)
GPU = profile("gpu", gpu=1, gpu_type="nvidia-tesla-v100")


def view(*profiles: ProfileView, **values: Any) -> FormView:
    known = {"workspace": "demo", "role": Role.EDITOR, "servers": ServersShown(used=1, limit=3), "experiment": "demo"}
    return FormView(profiles=profiles, **(known | values))


def html(form: FormView, chosen: dict[str, Any] | None = None, notice: str | None = None) -> str:
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("spawn_form.html").render(
        form=form, chosen=chosen or {}, notice=notice, limits_note=None
    )


def render(form: FormView, chosen: dict[str, Any] | None = None, notice: str | None = None) -> BeautifulSoup:
    return BeautifulSoup(html(form, chosen, notice), "html.parser")


def checked(page: BeautifulSoup) -> str | None:
    tag = page.find("input", attrs={"name": "profile", "checked": True})
    return None if tag is None else tag["value"]


def sent(page: BeautifulSoup) -> dict[str, list[str]]:
    """What a browser would send: enabled controls only, radios if checked."""
    fields: dict[str, list[str]] = {}
    for tag in page.find_all(["input", "select"]):
        if tag.has_attr("disabled") or tag.find_parent("fieldset", disabled=True):
            continue
        if tag.name == "select":
            value = (tag.find("option", selected=True) or tag.find("option"))["value"]
        elif tag.get("type") == "radio" and not tag.has_attr("checked"):
            continue
        else:
            value = tag.get("value", "")
        fields.setdefault(tag["name"], []).append(value)
    return fields


def test_it_says_where_the_server_opens_and_what_is_left() -> None:
    text = " ".join(render(view(SMALL, description="Our models")).get_text(" ").split())
    assert "You are editor, 1 of 3 servers in use." in text
    assert "Our models" in text
    assert "2 cpu, 4 GiB" in text


def test_the_first_open_profile_is_chosen_and_left_amounts_are_not_sent() -> None:
    page = render(view(profile("huge", "Too much."), SMALL, LARGE))
    assert checked(page) == "small"
    assert ask_from_form(sent(page)) == {"profile": "small"}


def test_a_saved_choice_comes_back_and_one_that_no_longer_fits_does_not() -> None:
    assert checked(render(view(SMALL, LARGE), {"profile": "large"})) == "large"
    assert checked(render(view(SMALL, profile("large", "The limit is 4 cpu.")), {"profile": "large"})) == "small"
    assert checked(render(view(SMALL), {"profile": "gone"})) == "small"


def test_the_workspaces_own_amounts_fill_it_in_until_somebody_chose() -> None:
    amounts = Resources(cpu=0.5, memory=4 * GIB)
    form = view(SMALL, LARGE, own=OwnAmounts(shown=amounts.show(), profile="large", resources=amounts))
    page = render(form, filled(form, {"template": "start-here"}))
    assert "A server here gets 0.5 cpu, 4 GiB unless you choose something else." in page.get_text()
    assert page.find("details").has_attr("open")
    assert ask_from_form(sent(page)) == {"profile": "large", "resources": {"cpu": 0.5}}, "the memory is the profile's"
    for chosen in ({"profile": "small"}, {"cpu": "1"}, {"resources": {"cpu": 1}}):
        assert filled(form, chosen) == chosen


def test_own_amounts_that_cannot_be_had_now_say_why_and_fill_in_nothing() -> None:
    form = view(SMALL, own=OwnAmounts(shown="4 cpu, 8 GiB", refusal="You have 3 of 4 cpu in use."))
    page = render(form, filled(form, {}))
    assert "gets 4 cpu, 8 GiB, which you cannot have now: You have 3 of 4 cpu in use." in page.get_text()
    assert ask_from_form(sent(page)) == {"profile": "small"}


@pytest.mark.parametrize("shape", ["saved", "query"])
def test_amounts_come_back_as_people_write_them(shape: str) -> None:
    if shape == "saved":
        chosen: dict[str, Any] = {
            "resources": {"cpu": 1.5, "memory": 3 * GIB, "gpu": 1, "gpu_type": "nvidia-tesla-v100"}
        }
    else:
        chosen = {"cpu": "1.5", "memory": "3Gi", "gpu": "1", "gpu_type": "nvidia-tesla-v100"}
    page = render(view(SMALL, GPU), {**chosen, "profile": "gpu", "mlflow_experiment": "night runs"})
    assert page.find("details").has_attr("open"), "what was customized is in sight"
    assert (
        ask_from_form(sent(page))
        == parse_ask(
            {
                "profile": "gpu",
                "resources": {"cpu": 1.5, "memory": "3Gi", "gpu": 1, "gpu_type": "nvidia-tesla-v100"},
                "mlflow_experiment": "night runs",
            }
        ).as_user_options()
    )


def test_an_amount_that_is_no_round_number_of_gib_survives_too() -> None:
    for amount in (1536 * 1024**2, 700 * 1024**2, 64 * 1024**2):
        page = render(view(SMALL), {"resources": {"memory": amount}})
        assert ask_from_form(sent(page))["resources"]["memory"] == amount


def test_cores_alone_leave_the_rest_to_the_profile() -> None:
    """The form asks for a profile and 4 cores: the gpu and the memory are still the profile's."""
    page = render(view(GPU), {"profile": "gpu", "cpu": "4"})
    asked = parse_ask(ask_from_form(sent(page)))
    gpu = Profile(name="gpu", cpu=8, memory="32Gi", gpu=1, gpu_type="nvidia-tesla-v100")
    _, amounts = choose([gpu], (), asked.profile, asked.resources)
    assert (amounts.cpu, amounts.memory, amounts.gpu) == (4, 32 * GIB, 1)


def test_the_template_that_opens_by_itself_is_named() -> None:
    templates = (TemplateView(name="start-here", title="Start here"),)
    for own, first in ((None, "None"), ("start-here", "Start here (the workspace's own)"), ("gone", "None")):
        options = render(view(SMALL, templates=templates, template=own)).find(id="spawn-template").find_all("option")
        assert (options[0]["value"], options[0].get_text()) == ("", first)


def test_gpu_fields_are_there_only_when_a_profile_has_one() -> None:
    assert render(view(SMALL)).find(id="spawn-gpu") is None
    assert render(view(SMALL, profile("gpu", "All are taken.", gpu=1))).find(id="spawn-gpu") is None
    assert render(view(SMALL, GPU)).find(id="spawn-gpu") is not None


def test_a_refusal_is_one_sentence_and_nothing_can_be_sent() -> None:
    page = render(view(SMALL, LARGE, refusal="You have 3 of 3 servers."))
    assert page.find(id="maestro-refused").get_text() == "You have 3 of 3 servers."
    assert sent(page) == {}


def test_profiles_that_are_all_refused_refuse_the_form() -> None:
    page = render(view(profile("small", "The limit is 1 cpu.")))
    assert page.find(id="maestro-refused") is not None
    assert "The limit is 1 cpu." in page.get_text()


def test_one_reason_for_every_profile_is_said_once() -> None:
    reason = "You have 3 of 3 servers."
    page = render(view(profile("small", reason), profile("large", reason), refusal=reason))
    assert page.get_text().count(reason) == 1


def test_without_a_workspace_there_is_the_sentence_alone() -> None:
    page = render(FormView(workspace=None, role=None, refusal="There is no workspace 'nope' that you belong to."))
    assert page.find(["input", "select", "h2"]) is None
    assert page.find(id="maestro-refused") is not None


def test_a_viewer_is_told_that_files_are_read_only() -> None:
    assert "files are read-only for you" in render(view(SMALL, role=Role.VIEWER)).get_text()


def test_nothing_that_people_wrote_becomes_html() -> None:
    form = view(
        profile("small", title=HOSTILE, description=HOSTILE),
        profile("large", HOSTILE),
        workspace=HOSTILE,
        description=HOSTILE + ' id="maestro-refused"',
        experiment=HOSTILE,
        templates=(TemplateView(name="start-here", title=HOSTILE, description=HOSTILE),),
    )
    text = html(form, {"mlflow_experiment": HOSTILE, "cpu": HOSTILE, "memory": HOSTILE}, HOSTILE)
    page = BeautifulSoup(text, "html.parser")
    assert page.find(["script", "img"]) is None
    assert page.find(id="spawn-cpu")["value"] == HOSTILE
    assert 'id="maestro-refused"' not in text, "the page around it looks for this mark"


def test_every_control_has_a_label() -> None:
    page = render(view(SMALL, GPU, templates=(TemplateView(name="start-here", title="Start here"),)))
    for control in page.find_all(["input", "select"]):
        assert page.find("label", attrs={"for": control["id"]}) is not None, control


# The Hub's page around it


def hub_page(form: str, **values: Any) -> BeautifulSoup:
    """spawn.html in a frame that has the Hub's blocks; the Hub's own is seen in the system tests."""
    frame = {"templates/spawn.html": "{% block stylesheet %}{% endblock %}{% block main %}{% endblock %}"}
    environment = Environment(loader=ChoiceLoader([DictLoader(frame), FileSystemLoader(TEMPLATES)]), autoescape=True)
    known = {"prefix": "/", "url": "/hub/spawn/ann/demo", "user": {"name": "ann"}, "for_user": {"name": "ann"}}
    text = environment.get_template("spawn.html").render(spawner_options_form=form, **(known | values))
    return BeautifulSoup(text, "html.parser")


def test_start_is_disabled_when_the_form_refuses() -> None:
    refusing = html(view(SMALL, refusal="You have 3 of 3 servers."))
    assert hub_page(refusing).find("button").has_attr("disabled")
    assert not hub_page(html(view(SMALL))).find("button").has_attr("disabled")


def test_a_refused_start_shows_its_sentence_once() -> None:
    plain = html(view(SMALL))
    assert hub_page(plain, error_message="The limit is 4 cpu.").find(role="alert").get_text() == "The limit is 4 cpu."
    told = html(view(SMALL), notice="The limit is 4 cpu.")
    assert hub_page(told, error_message="The limit is 4 cpu.").get_text().count("The limit is 4 cpu.") == 1


# What is left, and what still fits


WIDE = profile(
    "wide", max_cpu=8.0, max_memory=16 * GIB, max_memory_shown="16 GiB", max_gpu=0, idle_minutes=30, room="busy",
    images=(ImageView(name="r", title="R and tidyverse"),),
)  # fmt: skip


def test_what_is_in_use_of_every_limit_is_said() -> None:
    page = render(view(SMALL, left=("1 of 3 servers", "1 of 4 GPUs", "3.5 of 10 GPU hours this month")))
    assert page.find(id="maestro-left").get_text() == "Also in use: 1 of 4 GPUs, 3.5 of 10 GPU hours this month."
    assert render(view(SMALL, left=("1 of 3 servers",))).find(id="maestro-left") is None


def test_a_profile_says_what_more_it_allows_when_it_ends_and_whether_a_node_has_room() -> None:
    text = " ".join(render(view(WIDE)).get_text(" ").split())
    assert "Under Customize up to 8 cpu, 16 GiB" in text
    assert "Stopped after 30 minutes without use" in text
    assert "No node has room for it now; the start may wait" in text
    assert "A node has room for it now" in render(view(profile("a", room="now"))).get_text()
    assert "Whether a node has room is not known" in render(view(profile("a", room="unknown"))).get_text()
    plain = render(view(SMALL)).get_text()
    assert "Customize up to" not in plain and "Stopped after" not in plain and "node" not in plain


def test_images_are_offered_with_the_profiles_that_allow_them() -> None:
    page = render(view(SMALL, WIDE), {"profile": "wide", "image": "r"})
    select = page.find(id="spawn-image")
    assert [" ".join(option.get_text().split()) for option in select.find_all("option")] == [
        "as the profile",
        "R and tidyverse (with Wide)",
    ]
    assert ask_from_form(sent(page)) == {"profile": "wide", "image": "r"}
    assert render(view(SMALL)).find(id="spawn-image") is None


@pytest.mark.parametrize(
    ("chosen", "kept"),
    [
        (
            {"profile": "wide", "resources": {"cpu": 8, "memory": "16Gi"}},
            {"profile": "wide", "cpu": 8, "memory": "16Gi"},
        ),
        ({"profile": "wide", "resources": {"cpu": 9, "memory": "4Gi"}}, {"profile": "wide", "memory": "4Gi"}),
        ({"profile": "wide", "resources": {"gpu": 1}}, {"profile": "wide"}),
        ({"profile": "wide", "image": "r"}, {"profile": "wide", "image": "r"}),
        ({"profile": "small", "image": "r"}, {"profile": "small"}),
        (
            {"profile": "full", "resources": {"cpu": 1}, "image": "r", "mlflow_experiment": "x"},
            {"mlflow_experiment": "x"},
        ),
        ({"profile": "gone", "resources": {"cpu": 1}}, {}),
        ({"resources": {"cpu": 2}}, {"cpu": 2}),
        ({"resources": {"cpu": 3}}, {}),
        ({"profile": "small", "template": "gone"}, {"profile": "small"}),
    ],
)
def test_a_saved_choice_keeps_only_what_still_fits(chosen: dict[str, Any], kept: dict[str, Any]) -> None:
    shown = view(SMALL, WIDE, profile("full", "It is full."))
    assert fitting(shown, chosen) == kept
    assert ask_from_form(sent(render(shown, fitting(shown, chosen))))["profile"] in ("small", "wide")
