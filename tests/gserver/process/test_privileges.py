"""User and group of a process. Tests that need root run in a child process."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from gserver.errors import ConfigError
from gserver.process.privileges import drop_privileges, gid_of, uid_of

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")


def in_child(run: Callable[[], bool]) -> bool:
    pid = os.fork()
    if pid == 0:
        good = False
        try:
            good = run()
        finally:
            os._exit(0 if good else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_names_and_numbers_are_found() -> None:
    assert (uid_of("root"), uid_of("0"), uid_of(None)) == (0, 0, None)
    assert (gid_of("root"), gid_of("0"), gid_of(None)) == (0, 0, None)


def test_names_that_do_not_exist_are_clear_errors() -> None:
    with pytest.raises(ConfigError, match=r"^there is no user 'nobody-at-all'$"):
        uid_of("nobody-at-all")
    with pytest.raises(ConfigError, match=r"^there is no group 'nobody-at-all'$"):
        gid_of("nobody-at-all")


@pytest.mark.parametrize("number", ["\N{SUPERSCRIPT TWO}", "", "-1", "99999999999", str(2**32 - 1), "1.0"])
@pytest.mark.parametrize("find", [uid_of, gid_of])
def test_a_number_out_of_range_is_a_clear_error(find: Callable[[str], int | None], number: str) -> None:
    with pytest.raises(ConfigError):
        find(number)


def test_keeping_user_and_group_needs_no_permission() -> None:
    drop_privileges(None, None, False)
    drop_privileges(str(os.geteuid()), str(os.getegid()), False)


@needs_root
def test_root_is_given_up_for_good_with_all_groups() -> None:
    def become() -> bool:
        drop_privileges("nobody", "nogroup", False)
        try:
            os.setuid(0)
        except PermissionError:
            nobody, nogroup = uid_of("nobody"), gid_of("nogroup")
            return (os.getuid(), os.geteuid(), os.getgid(), os.getgroups()) == (nobody, nobody, nogroup, [nogroup])
        return False

    assert in_child(become)


@needs_root
def test_initgroups_sets_the_supplementary_groups_of_the_user() -> None:
    def become() -> bool:
        drop_privileges("nobody", None, True)
        return os.getuid() == uid_of("nobody") and 0 in os.getgroups()  # initgroups() adds its second argument

    assert in_child(become)


@needs_root
def test_a_missing_permission_is_a_clear_error() -> None:
    def become() -> bool:
        drop_privileges("nobody", "nogroup", False)
        try:
            drop_privileges("root", None, False)
        except ConfigError as error:
            return str(error) == "cannot become user root, group -: Operation not permitted"
        return False

    assert in_child(become)


@needs_root
def test_a_group_alone_leaves_the_user() -> None:
    def become() -> bool:
        drop_privileges(None, "nogroup", False)
        return (os.getuid(), os.getgid(), os.getgroups()) == (0, gid_of("nogroup"), [gid_of("nogroup")])

    assert in_child(become)


@needs_root
def test_a_user_alone_gives_up_the_groups_of_root() -> None:
    def become() -> bool:
        os.setgroups([0, 1, 2])
        drop_privileges("nobody", None, False)
        return (os.getuid(), os.getgid(), os.getgroups()) == (uid_of("nobody"), 0, [])

    assert in_child(become)


@needs_root
@pytest.mark.parametrize("initgroups", [False, True])
def test_a_number_without_a_name_is_a_user_but_has_no_groups(initgroups: bool) -> None:
    def become() -> bool:
        try:
            drop_privileges("54321", "54322", initgroups)
        except ConfigError:
            return initgroups and os.getuid() == 0
        return not initgroups and (os.getuid(), os.getgid(), os.getgroups()) == (54321, 54322, [54322])

    assert in_child(become)


@needs_root
def test_the_saved_ids_are_given_up_too() -> None:
    def become() -> bool:
        drop_privileges("nobody", "nogroup", True)
        return set(os.getresuid()) == {uid_of("nobody")} and set(os.getresgid()) == {gid_of("nogroup")}

    assert in_child(become)
