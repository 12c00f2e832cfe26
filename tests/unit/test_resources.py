"""Amounts of cpu, memory and gpu: as people write them, as they are kept, as they are shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maestro_core.errors import MaestroError
from maestro_core.models import read_model
from maestro_core.resources import (
    MAX_MEMORY,
    MIN_MEMORY,
    Resources,
    format_memory,
    parse_cpu,
    parse_gpu,
    parse_memory,
    show_memory,
)

GIB = 1024**3


class TestMemory:
    @pytest.mark.parametrize(
        ("text", "amount"),
        [
            ("16Gi", 16 * GIB),
            ("16g", 16 * GIB),
            ("16G", 16 * GIB),
            ("16GB", 16 * GIB),
            ("16GiB", 16 * GIB),
            ("16 gi", 16 * GIB),
            ("1.5g", 3 * GIB // 2),
            ("512Mi", GIB // 2),
            ("1Ti", 1024 * GIB),
            ("104857600", 100 * 1024**2),
            (4 * GIB, 4 * GIB),
            (4.0 * GIB, 4 * GIB),
        ],
    )
    def test_powers_of_1024_in_any_case(self, text: object, amount: int) -> None:
        assert parse_memory(text) == amount

    @pytest.mark.parametrize(
        "text", ["lots", "", "Gi", "-1Gi", "1e9", "1Xi", "16 G i", "1,5g", "½g", "١٦g", True, None, [], "1Ki", "9999Ti"]
    )
    def test_what_is_none_is_told_how_to_write_it(self, text: object) -> None:
        with pytest.raises(MaestroError) as caught:
            parse_memory(text)
        assert caught.value.code == "invalid_resources"
        assert "16Gi" in caught.value.message or "between 64Mi and 64Ti" in caught.value.message

    @given(st.integers(MIN_MEMORY, MAX_MEMORY))
    def test_what_is_written_reads_back_as_it_was(self, amount: int) -> None:
        assert parse_memory(format_memory(amount)) == amount

    @given(st.integers(MIN_MEMORY, MAX_MEMORY))
    def test_people_see_one_decimal_at_most(self, amount: int) -> None:
        number, unit = show_memory(amount).split(" ")
        assert unit in ("MiB", "GiB", "TiB") and 0 <= float(number) < 1024.1 and len(number.partition(".")[2]) <= 1

    @pytest.mark.parametrize(("amount", "shown"), [(0, "0 bytes"), (1000, "1000 bytes"), (12288, "12 KiB")])
    def test_people_see_what_a_small_folder_takes(self, amount: int, shown: str) -> None:
        assert show_memory(amount) == shown


class TestCpuAndGpu:
    @pytest.mark.parametrize(
        ("text", "cores"), [("2", 2), (2, 2), ("0.5", 0.5), ("500m", 0.5), ("1500m", 1.5), (0.25, 0.25)]
    )
    def test_cores(self, text: object, cores: float) -> None:
        assert parse_cpu(text) == cores

    @pytest.mark.parametrize(
        "text", ["", "many", "-1", "0", "0.001", "5000", "nan", "inf", "1e3", True, None, "2 cores"]
    )
    def test_what_is_no_amount_of_cpu(self, text: object) -> None:
        with pytest.raises(MaestroError) as caught:
            parse_cpu(text)
        assert caught.value.code == "invalid_resources"

    @pytest.mark.parametrize("text", ["1.5", "-1", "", "65", "all", True, "٣"])
    def test_gpus_are_whole(self, text: object) -> None:
        with pytest.raises(MaestroError):
            parse_gpu(text)
        assert parse_gpu("4") == parse_gpu(4) == 4


class TestTogether:
    def test_they_say_themselves_in_words(self) -> None:
        assert Resources(cpu=2, memory="4Gi").show() == "2 cpu, 4 GiB"
        assert Resources(cpu=1, memory="16Gi", gpu=1, gpu_type="v100").show() == "1 cpu, 16 GiB, 1 gpu (v100)"

    @given(
        st.builds(
            Resources,
            cpu=st.floats(0.01, 1024).map(lambda cores: round(cores, 3)),
            memory=st.integers(MIN_MEMORY, MAX_MEMORY),
            gpu=st.integers(0, 64),
            gpu_type=st.one_of(st.none(), st.just("nvidia-tesla-v100")),
        )
    )
    def test_json_and_back(self, amounts: Resources) -> None:
        assert read_model(Resources, amounts.model_dump(mode="json")) == amounts

    @pytest.mark.parametrize(
        "given",
        [{"cpu": "lots"}, {"memory": "x"}, {"gpu": -1}, {"gpu_type": "a b"}, {"gpu_type": "-x"}, {"disk": "1Gi"}],
    )
    def test_a_mistake_is_one_sentence(self, given: dict[str, object]) -> None:
        with pytest.raises(MaestroError) as caught:
            read_model(Resources, given)
        assert caught.value.code in ("invalid_resources", "invalid_request") and "\n" not in caught.value.message
