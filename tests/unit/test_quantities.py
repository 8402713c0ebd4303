"""Times, sizes and counts: what sbatch accepts is accepted, and is written in one way."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_provisioner.quantities import (
    UNLIMITED,
    count_gpus,
    count_hosts,
    format_duration,
    format_size,
    format_time,
    gpus_in_gres,
    largest_node_count,
    parse_count,
    parse_duration,
    parse_gpus,
    parse_nodes,
    parse_size,
    parse_time,
    span,
)


@pytest.mark.parametrize(
    ("given_as", "written"),
    [
        (90, "01:30:00"),
        ("90", "01:30:00"),
        ("30:15", "00:30:15"),
        ("4:00:00", "04:00:00"),
        ("1-12", "1-12:00:00"),
        ("1-12:30", "1-12:30:00"),
        ("2-00:00:01", "2-00:00:01"),
        ("0-36:00:00", "1-12:00:00"),
        ("4h", "04:00:00"),
        ("90m", "01:30:00"),
        ("1h30m", "01:30:00"),
        ("2D", "2-00:00:00"),
        (" 10m ", "00:10:00"),
        ("UNLIMITED", "UNLIMITED"),
        ("infinite", "UNLIMITED"),
        (-1, "UNLIMITED"),
        (0, "UNLIMITED"),
        ("00:00:00", "UNLIMITED"),
    ],
)
def test_a_time_limit_is_read_as_sbatch_reads_it(given_as, written):
    assert format_time(parse_time(given_as)) == written


@pytest.mark.parametrize(
    "value",
    [
        "",
        "4 hours",
        "1:2:3:4",
        "1-",
        "-4h",
        "1.5h",
        "1.5s",
        ":30",
        "1-2-3",
        "4h4h",
        "٤",
        1.5,
        True,
        None,
        [4],
        "9" * 5000,
    ],
)
def test_what_is_not_a_time_is_refused_with_the_forms_that_are(value):
    with pytest.raises(ValueError, match=r"is not a time|is neither|is too long"):
        parse_time(value)


@given(st.integers(min_value=1, max_value=2**31 - 1))
def test_times_survive_writing_and_reading(seconds):
    assert parse_time(format_time(seconds)) == seconds


def test_a_time_that_slurm_cannot_count_is_refused():
    with pytest.raises(ValueError, match="longer than Slurm can count"):
        parse_time("99999-00:00:00")


@pytest.mark.parametrize(
    ("given_as", "seconds"),
    [
        (300, 300),
        (0, 0),
        (1.5, 1.5),
        ("90s", 90),
        ("1.5s", 1.5),
        ("10m", 600),
        ("4h", 14400),
        ("1d12h", 129600),
        ("30:00", 1800),
        ("1-00:00:00", 86400),
    ],
)
def test_a_duration_is_seconds_or_has_a_unit(given_as, seconds):
    assert parse_duration(given_as) == seconds


def test_digits_in_quotes_are_refused_as_ambiguous():
    with pytest.raises(ValueError, match=r"'300' has no unit: give 300 \(seconds, no quotes\), 300s or 300m"):
        parse_duration("300")


@pytest.mark.parametrize("value", [-1, math.inf, math.nan, "", "soon", True, None, "UNLIMITED", 1e12])
def test_what_is_not_a_duration_is_refused(value):
    with pytest.raises(ValueError, match=r"is not a duration|is neither"):
        parse_duration(value)


@given(st.integers(min_value=0, max_value=10**9))
def test_durations_survive_writing_and_reading(seconds):
    assert parse_duration(format_duration(seconds)) == seconds


def test_durations_are_written_for_people():
    assert format_duration(5400) == "1h30m"
    assert format_duration(0.5) == "0.5s"
    assert format_duration(UNLIMITED) == "no limit"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0, "0 s"),
        (59.9, "59 s"),
        (600, "10 min"),
        (3599, "59 min 59 s"),
        (90_061, "1 d 1 h"),
        (math.inf, "no limit"),
    ],
)
def test_times_are_told_in_two_units(seconds, text):
    assert span(seconds) == text
    assert span(131_400, parts=4) == "1 d 12 h 30 min"


@pytest.mark.parametrize(
    ("given_as", "written"),
    [
        ("16G", "16G"),
        ("16GB", "16G"),
        ("16gib", "16G"),
        ("16384", "16G"),
        (16384, "16G"),
        ("1000M", "1000M"),
        ("1500", "1500M"),
        ("2048K", "2M"),
        ("1K", "1M"),
        ("1T", "1T"),
        ("1P", "1024T"),
        (0, "0"),
        ("0G", "0"),
    ],
)
def test_a_size_is_read_as_sbatch_reads_it(given_as, written):
    assert format_size(parse_size(given_as)) == written


@pytest.mark.parametrize("value", ["", "1.5G", "-1", -1, "16 G", "lots", "16X", True, None, 1.5, "9" * 30])
def test_what_is_not_a_size_is_refused(value):
    with pytest.raises(ValueError, match=r"is not a size|is neither|is more than"):
        parse_size(value)


@given(st.integers(min_value=0, max_value=2**31))
def test_sizes_survive_writing_and_reading(megabytes):
    assert parse_size(format_size(megabytes)) == megabytes


@pytest.mark.parametrize(
    ("given_as", "written", "most"),
    [(2, "2", 2), ("2", "2", 2), ("2-4", "2-4", 4), ("2,8,4", "2,8,4", 8), ("1-9:2,4", "1-9:2,4", 9)],
)
def test_node_counts(given_as, written, most):
    assert parse_nodes(given_as) == written
    assert largest_node_count(written) == most


@pytest.mark.parametrize("value", ["", "0", "4-2", "2-", "-2", "many", "2k", "1,", True, None, 2.0])
def test_what_is_not_a_number_of_nodes_is_refused(value):
    with pytest.raises(ValueError, match=r"is not a number of nodes|is neither"):
        parse_nodes(value)


@pytest.mark.parametrize(
    ("given_as", "written", "count"),
    [
        (2, "2", 2),
        ("2", "2", 2),
        ("a100:2", "a100:2", 2),
        ("a100", "a100:1", 1),
        ("a100:1,v100:3", "a100:1,v100:3", 4),
        ("nvidia_h100_80gb.1g:1", "nvidia_h100_80gb.1g:1", 1),
        ("1080ti:4,3090:2", "1080ti:4,3090:2", 6),
    ],
)
def test_gpu_counts(given_as, written, count):
    assert parse_gpus(given_as) == written
    assert count_gpus(written) == count


@pytest.mark.parametrize("value", ["", "a100:", ":2", "1080ti", "a100 2", "a100:x", "-1", "2,", True, None])
def test_what_is_not_a_number_of_gpus_is_refused(value):
    with pytest.raises(ValueError, match=r"is not a number of GPUs|is neither"):
        parse_gpus(value)


@pytest.mark.parametrize(
    ("gres", "count"),
    [
        ("gpu", 1),
        ("gpu:2", 2),
        ("gpu:a100", 1),
        ("gpu:a100:2,gpu:1,tmp:10G", 3),
        ("GPU:2", 2),
        ("gpu:0", 0),
        ("gpu:1k", 1024),
        ("gpu=2", 2),
        ("gres:gpu:2", 2),
        ("gres/gpu:a100:2", 2),
        ("gpu:a100:2(S:0-1)", 2),
        ("gpu:3090:2,gpu:1080ti:4", 6),
        ("shard:8,craynetwork:2", 0),
    ],
)
def test_gpus_in_gres(gres, count):
    assert gpus_in_gres(gres) == count


@pytest.mark.parametrize(
    ("hostlist", "count"),
    [
        ("", 0),
        ("c1", 1),
        ("c1,c2", 2),
        ("c[1-4,7],gpu01", 6),
        ("r[1-2]n[01-03]", 6),
        ("/a/file", math.inf),
        ("c[x]", math.inf),
    ],
)
def test_hosts_in_a_list(hostlist, count):
    assert count_hosts(hostlist) == count


@pytest.mark.parametrize("value", [0, -1, "x", 1.5, True, None, "1 2", 2**31])
def test_what_is_not_a_count_is_refused(value):
    with pytest.raises(ValueError, match=r"is not a whole number|is neither"):
        parse_count(value)


@given(st.text() | st.integers() | st.floats() | st.booleans() | st.none() | st.lists(st.integers()))
def test_whatever_comes_is_read_or_refused_in_one_way(value):
    for parse in (parse_time, parse_duration, parse_size, parse_count, parse_nodes, parse_gpus):
        with contextlib.suppress(ValueError):
            parse(value)
