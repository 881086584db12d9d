"""Copies follow their store: a thread that looks for newer changes, and what a fork leaves."""

import os
import threading
import weakref
from abc import ABC, abstractmethod


class Follower(ABC):
    """What a thread keeps up to date.

    Attributes:
        poll: seconds from one look to the next; None for no thread.
    """

    poll: float | None

    @abstractmethod
    def look(self) -> None:
        """Take what is new; errors are kept, and not raised."""

    @abstractmethod
    def begin_anew(self) -> None:
        """In a process made by fork: leave what belongs to the other process."""


def follow(follower: Follower) -> None:
    """Look every `poll` seconds, in a thread that ends with the follower."""
    _FOLLOWERS.add(follower)
    if follower.poll is not None:
        own = weakref.ref(follower)
        threading.Thread(target=_look, args=(own, follower.poll), daemon=True).start()


def _look(own: weakref.ref[Follower], poll: float) -> None:
    pause = threading.Event()
    while not pause.wait(poll):
        follower = own()
        if follower is None:
            return
        follower.look()
        del follower


_FOLLOWERS: weakref.WeakSet[Follower] = weakref.WeakSet()


def _begin_all_anew() -> None:
    for follower in list(_FOLLOWERS):
        follower.begin_anew()
        follow(follower)


# Windows has no fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_all_anew)
