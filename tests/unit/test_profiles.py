"""Profiles: which one a launch gets, and what it is told when it gets none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maestro_core.errors import MaestroError
from maestro_core.models import read_model
from maestro_core.profiles import Image, Profile, choose, default_profile, image_reference
from maestro_core.resources import Resources

SMALL = Profile(name="small", cpu=1, memory="2Gi")
LARGE = Profile(name="large", cpu=8, memory="32Gi")
GPU = Profile(name="gpu", cpu=8, memory="32Gi", gpu=1, gpu_type="v100", groups=("gpu-users",))
ALL = (SMALL, LARGE, GPU)


def code(*arguments: object) -> tuple[str, str]:
    with pytest.raises(MaestroError) as caught:
        choose(*arguments)  # type: ignore[arg-type]
    return caught.value.code, caught.value.message


class TestChoosing:
    def test_nothing_asked_is_the_first_open_one_with_its_amounts(self) -> None:
        assert choose(ALL, (), None, None) == (SMALL, SMALL.resources)
        assert choose((GPU, SMALL), (), None, None) == (SMALL, SMALL.resources)
        assert choose((GPU, SMALL), ("gpu-users",), None, None) == (GPU, GPU.resources)

    def test_a_name_gives_its_amounts(self) -> None:
        assert choose(ALL, (), "large", None) == (LARGE, LARGE.resources)

    def test_amounts_choose_the_first_that_covers_them_and_stay_as_asked(self) -> None:
        asked = Resources(cpu=2, memory="4Gi")
        assert choose(ALL, (), None, asked) == (LARGE, asked)
        assert choose(ALL, (), None, Resources(cpu=1, memory="1Gi"))[0] is SMALL

    def test_a_name_with_amounts_is_that_profile_with_less(self) -> None:
        asked = Resources(cpu=2, memory="4Gi")
        assert choose(ALL, (), "large", asked) == (LARGE, asked)

    def test_a_gpu_of_any_kind_or_of_the_one_asked_for(self) -> None:
        for kind in (None, "v100"):
            assert choose(ALL, ("gpu-users",), None, Resources(gpu=1, gpu_type=kind))[0] is GPU
        assert code(ALL, ("gpu-users",), None, Resources(gpu=1, gpu_type="h100"))[0] == "profile_closed"


WIDE = Profile(name="wide", cpu=1, memory="2Gi", allow={"cpu": 4, "gpu": 2, "images": ["r"]})


class TestWhatAProfileAllows:
    def test_its_own_amounts_are_the_default_and_more_may_be_asked_for(self) -> None:
        assert choose((WIDE,), (), "wide", None)[1] == WIDE.resources
        assert choose((WIDE,), (), "wide", Resources(cpu=4, gpu=2, memory="2Gi"))[1].cpu == 4
        assert "8 cpu of 4" in code((WIDE,), (), "wide", Resources(cpu=8))[1]
        assert "3 GiB of 2 GiB" in code((WIDE,), (), "wide", Resources(memory="3Gi"))[1]

    def test_amounts_alone_find_it_too(self) -> None:
        assert choose((SMALL, WIDE), (), None, Resources(cpu=3))[0] is WIDE

    def test_less_than_the_profile_has_allows_no_less(self) -> None:
        assert Profile(name="a", cpu=8, allow={"cpu": 2}).ceiling.cpu == 8

    def test_an_image_by_name_from_those_it_allows(self) -> None:
        assert choose((SMALL, WIDE), (), None, None, "r")[0] is WIDE, "the first that allows it"
        assert choose((SMALL, WIDE), (), "wide", None, "r")[0] is WIDE
        kind, message = code((SMALL, WIDE), (), "small", None, "r")
        assert (kind, message) == (
            "profile_closed",
            "The profile 'small' does not allow the image 'r'; leave it out.",
        )
        assert (
            "No profile open to you allows the image 'x'; take one of: r" in code((SMALL, WIDE), (), None, None, "x")[1]
        )

    def test_what_a_node_pulls(self) -> None:
        images = (Image(name="r", image="registry.example.org/r:1"),)
        own = Profile(name="a", image="own:1", allow={"images": ["r"]})
        assert image_reference(images, own, "r") == "registry.example.org/r:1"
        assert (image_reference(images, own, None), image_reference(images, SMALL, None)) == ("own:1", None)

    @pytest.mark.parametrize("image", ["", "a b", "x\ny", "-flag", "$(HOME)", "{username}", "a" * 501])
    def test_an_image_is_a_reference(self, image: str) -> None:
        with pytest.raises(MaestroError):
            read_model(Image, {"name": "r", "image": image})


class TestRefusals:
    def test_unknown_names_what_is_open(self) -> None:
        assert code(ALL, (), "huge", None) == (
            "unknown_profile",
            "There is no profile 'huge'; take one of: small, large.",
        )

    def test_closed_names_the_groups(self) -> None:
        kind, message = code(ALL, (), "gpu", None)
        assert kind == "profile_closed" and "gpu-users" in message and "small, large" in message

    def test_too_little_says_what_is_lacking(self) -> None:
        assert "8 cpu of 1" in code(ALL, (), "small", Resources(cpu=8))[1]
        assert "4 GiB of 2 GiB" in code(ALL, (), "small", Resources(memory="4Gi"))[1]
        assert "1 gpu of 0" in code(ALL, (), "large", Resources(gpu=1))[1]

    def test_no_profile_covers_it_lists_those_that_are_open(self) -> None:
        kind, message = code(ALL, (), None, Resources(cpu=64))
        assert kind == "profile_closed" and "small (1 cpu, 2 GiB), large (8 cpu, 32 GiB)" in message

    def test_none_is_open(self) -> None:
        with pytest.raises(MaestroError, match="No profile is open to you"):
            default_profile((GPU,), ())


AMOUNTS = st.builds(Resources, cpu=st.integers(1, 10), memory=st.integers(1, 40).map(lambda n: f"{n}Gi"))
PROFILES = st.lists(
    st.builds(
        Profile,
        name=st.sampled_from(["a", "b", "c", "d"]),
        cpu=st.integers(1, 10),
        memory=st.integers(1, 40).map(lambda n: f"{n}Gi"),
        groups=st.sampled_from([(), ("x",), ("x", "y")]),
    ),
    max_size=4,
    unique_by=lambda profile: profile.name,
)


@given(PROFILES, st.sets(st.sampled_from(["x", "y", "z"])), st.one_of(st.none(), st.sampled_from("abcd")), AMOUNTS)
def test_what_is_chosen_is_open_and_covers_what_was_asked(
    profiles: list[Profile], groups: set[str], name: str | None, asked: Resources
) -> None:
    try:
        profile, given_ = choose(profiles, groups, name, asked)
    except MaestroError as error:
        assert error.code in ("profile_closed", "unknown_profile")
        fitting = [one for one in profiles if one.open_to(groups) and one.shortfall(asked) is None]
        assert not [one for one in fitting if name in (None, one.name)]
        return
    assert given_ == asked and profile.open_to(groups) and profile.shortfall(asked) is None
    assert name in (None, profile.name)


@pytest.mark.parametrize("bad", [{"name": "Big"}, {"name": "a", "cpu": "x"}, {"name": "a", "colour": "red"}, {}])
def test_a_mistake_in_one_is_one_sentence(bad: dict[str, object]) -> None:
    with pytest.raises(MaestroError):
        read_model(Profile, bad)
