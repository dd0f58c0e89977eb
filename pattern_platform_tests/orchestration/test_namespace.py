"""Which namespace a branch has, asked of checkouts that git itself made."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattern_platform.errors import InvalidNamespaceError
from pattern_platform.orchestration.namespace import (
    LONGEST_NAME,
    Namespace,
    current_branch,
    local_branches,
    namespace_of_branch,
)

DATA = Path("/platform/data")
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")

# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("branch", ["main", "master", "sessions", "v1.2", "fix_7", "a-b", "2024", "x" * LONGEST_NAME])
def test_a_branch_that_is_a_folder_name_is_the_name(branch: str) -> None:
    assert namespace_of_branch(branch) == branch


ALIKE = [
    ("feature/a-b", "feature-a/b"),
    ("feature/a-b", "feature-a-b"),
    ("Feature", "feature"),  # one folder on a Mac
    ("a/b", "a//b"),
    ("é", "è"),
    ("x" * 200 + "a", "x" * 200 + "b"),
    ("..", "."),
    ("a\\b", "a/b"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_branches_that_look_alike_have_names_of_their_own(one: str, other: str) -> None:
    assert namespace_of_branch(one) != namespace_of_branch(other)


def test_a_branch_cannot_take_the_name_of_another_by_its_hash() -> None:
    taken = namespace_of_branch("feature/x")
    assert taken.startswith("feature-x-")
    assert namespace_of_branch(taken) != taken


@given(st.lists(st.text(min_size=1), unique=True, min_size=2, max_size=2))
def test_every_branch_has_a_name_that_is_valid_and_its_own(branches: list[str]) -> None:
    names = [namespace_of_branch(branch) for branch in branches]
    assert names[0] != names[1]
    for name in names:
        root = Namespace(name, DATA).root
        assert name == "main" or root.resolve().parent == DATA / "namespaces"


def test_only_the_branch_main_has_the_namespace_main() -> None:
    others = ["Main", "main/", "/main", "main ", "refs/heads/main", "./main", "main.", "-main"]
    assert "main" not in {namespace_of_branch(branch) for branch in others}


BAD = [
    "",
    ".",
    "..",
    "../main",
    "/etc",
    "a/b",
    "a\\b",
    "Main",
    "é",
    " ",
    "a b",
    "-x",
    ".hidden",
    "_x",
    "a%2Fb",
    "a\n",
    "a\0",
    "x" * (LONGEST_NAME + 1),
]


@pytest.mark.parametrize("name", BAD)
def test_a_name_that_is_no_folder_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidNamespaceError, match="use lower-case letters"):
        Namespace(name, DATA)


def test_a_branch_without_name_is_refused() -> None:
    with pytest.raises(InvalidNamespaceError, match="name the branch"):
        namespace_of_branch("")


KINDS = {
    "main": "serving",
    "master": "serving",
    "release/1.0": "serving",
    "release/Summer": "serving",
    "e2e": "end_to_end",
    "e2e/nightly": "end_to_end",
    "e2e-17": "end_to_end",
    "released": "research",
    "feature/release": "research",
    "maintenance": "research",
    "sessions": "research",
}


@pytest.mark.parametrize("branch", KINDS)
def test_the_kind_is_that_of_the_branch(branch: str) -> None:
    assert Namespace(namespace_of_branch(branch), DATA).kind == KINDS[branch]


def test_main_is_the_data_folder_and_all_others_are_below_it() -> None:
    assert Namespace("main", DATA).root == DATA
    assert Namespace("main", DATA).dagster_home == Path("/platform/.dagster_home")
    assert Namespace("trial", DATA).root == DATA / "namespaces" / "trial"
    assert Namespace("trial", DATA).dagster_home == DATA / "namespaces" / "trial" / "dagster_home"


# Branches -------------------------------------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> None:
    author = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *author, "-C", folder, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch", "trunk")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "first")
    return folder


@needs_git
def test_the_branch_is_the_one_that_git_has_checked_out(checkout: Path) -> None:
    assert current_branch(checkout) == "trunk"
    git(checkout, "switch", "--quiet", "--create", "feature/deep/é")
    assert current_branch(checkout) == "feature/deep/é"
    assert local_branches(checkout) == {"trunk", "feature/deep/é"}


@needs_git
def test_no_branch_is_checked_out_on_a_commit_or_a_tag(checkout: Path) -> None:
    git(checkout, "tag", "v1")
    for place in ("HEAD", "v1"):
        git(checkout, "checkout", "--quiet", "--detach", place)
        assert current_branch(checkout) is None
    assert local_branches(checkout) == {"trunk"}


@needs_git
def test_branches_are_known_whether_packed_or_not(checkout: Path) -> None:
    git(checkout, "branch", "packed/one")
    git(checkout, "tag", "--annotate", "--message", "m", "v1")
    git(checkout, "pack-refs", "--all")
    git(checkout, "branch", "loose")
    assert local_branches(checkout) == {"trunk", "packed/one", "loose"}
    git(checkout, "branch", "-D", "packed/one")
    assert local_branches(checkout) == {"trunk", "loose"}


@needs_git
def test_a_worktree_has_a_branch_of_its_own_and_the_branches_of_all(checkout: Path) -> None:
    worktree = checkout.parent / "worktree"
    git(checkout, "worktree", "add", "--quiet", "-b", "beside", str(worktree))
    assert (worktree / ".git").is_file()
    assert (current_branch(worktree), current_branch(checkout)) == ("beside", "trunk")
    assert local_branches(worktree) == local_branches(checkout) == {"trunk", "beside"}


@needs_git
def test_a_branch_without_commit_counts(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--initial-branch", "new")
    assert current_branch(tmp_path) == "new"
    assert local_branches(tmp_path) == {"new"}


def test_without_a_checkout_there_is_no_branch(tmp_path: Path) -> None:
    assert (current_branch(tmp_path), local_branches(tmp_path)) == (None, None)
    (tmp_path / ".git").write_text("gitdir: ../gone\n")
    assert (current_branch(tmp_path), local_branches(tmp_path)) == (None, None)


def test_refs_that_are_no_files_are_not_guessed(tmp_path: Path) -> None:
    (tmp_path / ".git" / "reftable").mkdir(parents=True)
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/.invalid\n")
    assert (current_branch(tmp_path), local_branches(tmp_path)) == (None, None)
