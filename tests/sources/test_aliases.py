"""Aliases say which names of ROIs belong to which class."""

import pytest

from fastseg.errors import FastsegError, LinkError, OptionError
from fastseg.sources.aliases import Aliases, aliases_of_options, read_aliases

TEXTS = ["heart=Heart|HEART*", "lung_l=Lung?L", "heart=heart_v[0-9]"]
TOML = """
# Which names mean what.
heart = ["Heart", "HEART*", "heart_v[0-9]"]
lung_l = "Lung?L"
"""
CSV = "class;pattern\nheart;Heart\nheart;HEART*\nlung_l;Lung?L\nheart;heart_v[0-9]\n"
CLASS_OF = {
    "Heart": "heart",
    "heart": "heart",
    "HEART PRV": "heart",
    "heart_v2": "heart",
    "Lung_L": "lung_l",
    "LUNG L": "lung_l",
    "Lung_R": None,
    "Lung__L": None,
    "My heart": None,
    "": None,
}


@pytest.mark.parametrize("form", ["texts", "dict", "toml", "csv", "itself"])
def test_all_forms_mean_the_same(tmp_path, form):
    """Texts, a dict, both kinds of files and Aliases give the same classes of names."""
    (tmp_path / "a.toml").write_text(TOML)
    (tmp_path / "a.CSV").write_text(CSV, encoding="utf-8-sig")
    forms = {
        "texts": TEXTS,
        "dict": {"heart": ("Heart", "HEART*", "heart_v[0-9]"), "lung_l": "Lung?L"},
        "toml": str(tmp_path / "a.toml"),
        "csv": tmp_path / "a.CSV",
        "itself": Aliases.of(TEXTS),
    }
    aliases = Aliases.of(forms[form])
    assert aliases.classes == ("heart", "lung_l")
    assert aliases == Aliases.of(TEXTS)
    assert {name: aliases.class_of(name) for name in CLASS_OF} == CLASS_OF


def test_case_counts_if_asked(tmp_path):
    """With match_case, neither names nor wildcards fit in another case."""
    aliases = Aliases.of(TEXTS, match_case=True)
    names = ("Heart", "HEART", "heart", "heart_v1", "Heart_v1", "lung_L")
    expected = ["heart", "heart", None, "heart", None, None]
    assert [aliases.class_of(name) for name in names] == expected
    assert Aliases.of(Aliases.of(TEXTS), match_case=True) == aliases


def test_letters_are_compared_in_one_form():
    """A letter with its accent is that letter, in one character or in two."""
    aliases = Aliases.of({"oesophagus": ["\u00d6sophagus*"]})
    assert aliases.class_of("o\u0308sophagus_1") == "oesophagus"
    assert Aliases.of({"a": ["STRASSE"]}).class_of("Stra\u00dfe") == "a"


def test_a_name_goes_before_a_wildcard():
    """A class may name what the wildcard of another would take, too."""
    aliases = Aliases.of(["heart=Heart*", "lv=Heart_LV"])
    assert aliases.class_of("heart_lv") == "lv"
    assert aliases.class_of("Heart_RV") == "heart"


def test_brackets_may_stand_for_themselves():
    """A pattern fits the name that is written like it; an escaped `*` fits only `*`."""
    aliases = Aliases.of({"gtv": ["GTV [1]"], "star": ["Heart[*]"], "q": ["a[?", "b]"]})
    names = ("GTV [1]", "GTV 1", "GTV []", "heart*", "Heart1", "a[x", "b]", "a[")
    expected = ["gtv", "gtv", None, "star", None, "q", "q", None]
    assert [aliases.class_of(name) for name in names] == expected


def test_a_name_of_two_classes_is_refused():
    """The error names both classes and their patterns, and says what to do."""
    aliases = Aliases.of(["heart=Hea*", "art=*rt|*art"])
    with pytest.raises(OptionError, match="give the name itself to the class") as info:
        aliases.class_of("Heart")
    assert "'heart' ('Hea*') and 'art' ('*rt')" in str(info.value)
    assert [match.label for match in aliases.matches("Heart")] == ["heart", "art"]


def test_patterns_without_names_are_listed():
    """`unused` returns the patterns that fit none of the names, in order."""
    aliases = Aliases.of(["heart=Herz|HEART*", "lung=Lung|lung*|Pulmo"])
    assert aliases.unused(["heart", "LUNG"]) == [("heart", "Herz"), ("lung", "Pulmo")]
    assert len(aliases.unused([])) == 5


@pytest.mark.parametrize(
    ("rois", "text"),
    [
        ([], "there are no classes, expected some"),
        (["heart"], "rois is 'heart', expected a class and the ROI names that belong"),
        (["=Heart"], "as in heart='Heart|HEART*'"),
        (["heart="], "expected a class"),
        (["heart=Heart||Herz"], "expected a class"),
        ([7], "rois is 7, expected a class"),
        (["a=Heart", "b=x|HEART"], "'a' and 'b' both have the pattern 'HEART'"),
        (["heart=a", "Heart=b"], "differ in upper and lower case alone"),
        (["he\u202eart=a"], "has control or format characters"),
        ([f"{'x' * 1025}=a"], "has more than 1024 bytes"),
        ({"heart": 7}, "class 'heart' is 7, expected a list of ROI names"),
        ({"heart": ["Heart", None]}, "an ROI name of class 'heart' is None"),
        ({"heart": []}, "class 'heart' has no ROI names"),
        ({7: ["Heart"]}, "a class is 7, expected a text"),
        ("heart=Heart", "expected a list of such texts"),
        ("notes.txt", "ends with .toml or .csv"),
        (7, "rois is 7, expected a path"),
    ],
)
def test_what_is_no_alias_is_an_option_error(rois, text):
    """The message says what came and what was expected."""
    with pytest.raises(OptionError) as info:
        Aliases.of(rois)
    assert text in str(info.value)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.toml", 'heart = ["Heart"\nlung = 1', "a.toml, line 2: Unclosed array"),
        ("a.toml", "left lung = []", "line 1: Expected '=' after a key"),
        ("a.toml", "left lung = []", "stands in quotes"),
        ("a.toml", 'a = ["x"]\n\n[b]\nc = ["y"]', "line 3: class 'b' is {'c': ['y']}"),
        ("a.toml", 'a = ["x"]\na = ["y"]', "line 2: Cannot overwrite a value"),
        ("a.toml", 'a = ["x"]\n"b c" = 7', "line 2: class 'b c' is 7, expected a list"),
        ("a.toml", 'a = ["x"]\nb = ["X"]', "'a' and 'b' both have the pattern 'X'"),
        ("a.toml", "a = []", "class 'a' has no ROI names"),
        ("a.toml", 'a = "x"\nb = "\udce4"', "line 2: is not UTF-8 text"),
        ("a.toml", f"a = {'[' * 9999}", "nested too deeply"),
        ("a.csv", "label,pattern\nheart,Heart\n", "line 1: no column class; expected"),
        ("a.csv", "class,pattern\nheart,Heart\nlung,\n", "line 3: the row has no patt"),
        (
            "a.csv",
            "class,pattern\nheart,Heart\n,Lung\n",
            "line 3: the row has no class",
        ),
        ("a.csv", "class,pattern\nheart,a,b\n", "line 2: the row has 3 fields"),
        ("a.csv", "class,pattern\n", "a.csv: there are no classes"),
        ("a.toml", "# a = []", "a.toml: there are no classes"),
    ],
)
def test_a_file_of_aliases_is_refused_with_its_line(tmp_path, name, content, text):
    """The message names the file, its line where one is at fault, and the remedy."""
    path = tmp_path / name
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(LinkError) as info:
        read_aliases(path)
    assert str(path) in str(info.value)
    assert text in str(info.value)


def test_a_missing_file_is_an_os_error(tmp_path):
    """The message gives a name that may be meant, or says how to make the file."""
    with pytest.raises(FileNotFoundError, match=r"fastseg rois STUDIES -o"):
        read_aliases(tmp_path / "aliases.toml")
    (tmp_path / "alias.toml").write_text(TOML)
    with pytest.raises(FileNotFoundError, match=r"did you mean alias\.toml"):
        read_aliases(tmp_path / "aliases.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.toml"):
        read_aliases(tmp_path / "folder.toml")


def test_options_add_to_a_file(tmp_path):
    """--roi adds patterns to the classes of --aliases; without both there are none."""
    (tmp_path / "a.toml").write_text(TOML)
    both = aliases_of_options(["heart=Herz", "cord=*Cord"], tmp_path / "a.toml", False)
    assert both.classes == ("heart", "lung_l", "cord")
    assert [both.class_of(x) for x in ("herz", "HEART")] == ["heart", "heart"]
    assert aliases_of_options(None, None, False) is None
    assert aliases_of_options(["a=A"], None, True).class_of("a") is None
    with pytest.raises(OptionError, match="--match-case"):
        aliases_of_options([], None, True)
    with pytest.raises(OptionError, match="--roi is 'heart', expected"):
        aliases_of_options(["heart"], tmp_path / "a.toml", False)
    with pytest.raises(FastsegError, match="both have the pattern"):
        aliases_of_options(["cord=heart"], tmp_path / "a.toml", False)
