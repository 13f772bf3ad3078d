"""The checker tells what is lost, unexpected, duplicated and recovered, and who can have had what is missing."""

from __future__ import annotations

from collections import Counter

from tests.integration.reliability.checker import check_total, unexplained


def test_nothing_wrong() -> None:
    """All that was accepted came out once; what was attempted only need not."""
    verdict = check_total("abcd", "abc", "cba")
    assert verdict.is_faultless
    assert verdict.recovered == Counter()


def test_each_fault_has_its_name() -> None:
    """Each element is counted where it belongs, as often as it is wrong."""
    verdict = check_total("abcde", "abc", "bbbcdxx")
    assert verdict.lost == Counter("a")
    assert verdict.unexpected == Counter("xx")
    assert verdict.duplicated == Counter("bb")
    assert verdict.recovered == Counter("d")
    assert not verdict.is_faultless
    assert "lost 1 ['a']" in str(verdict)


def test_one_fault_is_enough() -> None:
    """Any of the three faults is one; a recovered element is none."""
    assert not check_total("a", "a", "").is_faultless
    assert not check_total("", "", "a").is_faultless
    assert not check_total("a", "", "aa").is_faultless
    assert check_total("a", "", "a").is_faultless


def test_an_element_put_twice_may_come_twice() -> None:
    """Elements are counted, not collected."""
    assert check_total("aa", "aa", "aa").is_faultless
    assert check_total("aa", "aa", "a").lost == Counter("a")


def test_who_can_have_had_what_is_missing() -> None:
    """Each suspect accounts for so many elements of those it could have had, shared out as well as it can be done."""
    assert unexplained("ab", [("ab", 1), ("a", 1)]) == set()
    assert unexplained("ab", [("ab", 1), ("ab", 0)]) in ({"a"}, {"b"})
    assert unexplained("abc", [("ab", 3)]) == {"c"}
    assert unexplained("abc", [("abc", 1), ("b", 1), ("bc", 1)]) == set()
    assert unexplained("a", []) == {"a"}
