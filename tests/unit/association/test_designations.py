"""Designations packed as the Minor Planet Center does, and back; no two bodies share an id."""

import pytest

from apdb import columns_of
from association.designations import pack_designation, ss_object_id, unpack_designation

# examples of https://minorplanetcenter.net/iau/info/PackedDes.html and of the page on provisional designations
PACKED = {
    "1995 XA": "J95X00A", "1995 XL1": "J95X01L", "1995 FB13": "J95F13B", "1998 SQ108": "J98SA8Q", "1998 SV127": "J98SC7V",
    "1998 SS162": "J98SG2S", "2099 AZ193": "K99AJ3Z", "2008 AA360": "K08Aa0A", "2007 TA418": "K07Tf8A", "2026 CA620": "_QC0000",
    "2026 CZ6190": "_QC0aEM", "2040 P-L": "PLS2040", "3138 T-1": "T1S3138", "C/1995 O1": "CJ95O010",
    "P/1994 P1-B": "PJ94P01b", "C/1994 P1": "CJ94P010", "P/2019 LD2": "PK19L02D", "C/2014 UN271": "CK14UR1N", "73P": "0073P",
    "73P-B": "0073Pb", "1I": "0001I", "(3202)": "03202", "(50000)": "50000", "(100345)": "A0345", "(360017)": "a0017",
    "(620000)": "~0000", "(620061)": "~000z", "(15396335)": "~zzzz",
}  # fmt: skip


@pytest.mark.parametrize(("name", "packed"), PACKED.items())
def test_examples_of_the_minor_planet_center(name, packed):
    assert pack_designation(name) == packed
    assert pack_designation(packed) == packed  # what is packed stays
    assert unpack_designation(packed) == name.strip("()")
    assert 0 < ss_object_id(name) == ss_object_id(packed) < 2**63


def test_names_beside_a_designation_do_not_count():
    for name, same in {"C/2025 N1 (ATLAS)": "C/2025 N1", "(1) Ceres": "00001", "1I/'Oumuamua": "1I",
                       "73P/Schwassmann-Wachmann": "73P"}.items():  # fmt: skip
        assert ss_object_id(name) == ss_object_id(same)


def test_bodies_that_differ_have_other_ids():
    names = ["C/2014 UN271", "C/2014 UN272", "P/2014 UN271", "2014 UN271", "73P-B", "73P-C", "73P-BC", "73P", "(12345) Foo",
             "(12346) Foo", "A body without designation 1", "A body without designation 2", "D/1993 F2-AB", "D/1993 F2-AC",
             "D/1993 F2-A", "AB C", "A BC", "ABC", "C/2026 A620", "C/2026 A621", "1998 AA620", "2062 AA620", "2063 AA620",
             "(15396335)", "(15396336)", "(20000000)", "(620000)", "20000001", "(16777216)"]  # fmt: skip
    assert len({ss_object_id(n) for n in names}) == len(names)
    assert all(len(pack_designation(n)) <= 8 for n in names)
    assert [pack_designation(n)[0] for n in ("C/2026 A620", "1998 AA620", "2062 AA620", "(20000000)")] == ["#"] * 4


def test_designations_fit_their_column():
    length = next(c.length for c in columns_of("SSSource") if c.name == "designation")
    for name in ("(136199) A name of many letters", "C/2025 N1 (A very long name)", "A body that has no designation"):
        assert len(unpack_designation(name)) <= length
    assert unpack_designation("C/2025 N1 (A very long name)") == "C/2025 N1"
    assert unpack_designation("(136199) A name of many letters") == "(136199)"
    assert unpack_designation("(1) Ceres") == "(1) Ceres"
