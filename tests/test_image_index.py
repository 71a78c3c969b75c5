"""The cached list of a folder's images: true, and never trusted once the folder changed."""

import os

import numpy as np
import pytest
from full_spike.utils.data.images.index import cache_path, index_images
from full_spike.utils.data.images.listing import scan
from full_spike.utils.errors import UserError
from support.images import imagenet_tree


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return imagenet_tree(tmp_path / "data", count=4) / "train"


def paths(index):
    return [index.path(i) for i in range(len(index))]


def cached(root):
    """(the index, what was said about where it came from)."""
    said = []
    return index_images(root, cache=True, say=said.append), said[0]


def test_it_lists_what_torchvision_lists(root):
    from torchvision.datasets import ImageFolder

    index, theirs = scan(root), ImageFolder(str(root))
    assert list(zip(paths(index), index.targets.tolist(), strict=True)) == theirs.samples
    assert index.classes == theirs.classes


def test_the_second_start_reads_the_cache_and_gets_the_same(root):
    first, said = cached(root)
    assert "first time" in said
    second, said = cached(root)
    assert "from the index" in said
    assert paths(second) == paths(first) == paths(scan(root))
    assert second.targets.tolist() == first.targets.tolist()


def add(root):
    (root / "n01440764" / "new.JPEG").touch()


def remove(root):
    (root / "n01440764" / "0.JPEG").unlink()


def rename(root):
    (root / "n01440764" / "0.JPEG").rename(root / "n01440764" / "9.JPEG")


def add_class(root):
    (root / "n09999999").mkdir()
    (root / "n09999999" / "0.JPEG").touch()


def remove_class(root):
    for path in (root / "n01484850").iterdir():
        path.unlink()
    (root / "n01484850").rmdir()


def nest(root):
    (root / "n01440764" / "more").mkdir()
    (root / "n01440764" / "more" / "0.JPEG").touch()


@pytest.mark.parametrize("change", [add, remove, rename, add_class, remove_class, nest])
def test_a_changed_folder_is_noticed(root, change):
    cached(root)
    change(root)
    index, said = cached(root)
    assert "the folder changed" in said
    assert paths(index) == paths(scan(root))


def test_a_change_in_a_nested_folder_is_noticed(root):
    nest(root)
    cached(root)
    (root / "n01440764" / "more" / "1.JPEG").touch()
    assert "the folder changed" in cached(root)[1]


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut off"])
def test_a_damaged_cache_is_made_anew(root, content):
    cached(root)
    cache_path(root).write_bytes(content)
    index, said = cached(root)
    assert "the cache is damaged" in said
    assert len(index) == 12
    assert "from the index" in cached(root)[1]


def test_a_cache_that_holds_objects_runs_nothing(root, tmp_path):
    class Malicious:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    cached(root)
    with open(cache_path(root), "wb") as file:
        np.savez(file, version=np.array([Malicious()], dtype=object))
    assert "the cache is damaged" in cached(root)[1]
    assert not (tmp_path / "executed").exists()


def test_a_cache_that_cannot_be_written_is_a_warning(root, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    index, said = cached(root)
    assert said.startswith("warning: cannot cache the index")
    assert len(index) == 12


def test_an_empty_class_is_named(root):
    for path in (root / "n01443537").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="classes n01443537"):
        scan(root)
