"""The delivery of messages to the channels that have joined their topic."""

import asyncio
from collections import defaultdict
from typing import Protocol

from picture_queue.local.gateway.faults import Faults


class Subscriber(Protocol):
    """A receiver of messages, such as a channel."""

    def deliver(self, text: str) -> None:
        """Queue a frame without waiting."""


class Hub:
    """The subscribers of each topic.

    As on Supabase, a public and a private topic with the same name are two topics.
    """

    def __init__(self) -> None:
        self._topics: defaultdict[tuple[str, bool], set[Subscriber]] = defaultdict(set)
        self._faults: Faults | None = None

    def set_faults(self, faults: Faults) -> None:
        """Set the fault switches that every delivery reads; called once, at the start."""
        self._faults = faults

    def add(self, name: str, private: bool, subscriber: Subscriber) -> None:
        """Begin to deliver a topic's messages to a subscriber."""
        self._topics[name, private].add(subscriber)

    def remove(self, name: str, private: bool, subscriber: Subscriber) -> None:
        """Stop deliveries to a subscriber; ignore an unknown subscriber."""
        subscribers = self._topics.get((name, private))
        if subscribers is None:
            return
        subscribers.discard(subscriber)
        if not subscribers:
            del self._topics[name, private]

    def has_subscribers(self, name: str, private: bool) -> bool:
        """Return whether a topic has subscribers."""
        return (name, private) in self._topics

    def publish(
        self, name: str, private: bool, text: str, *, excluding: Subscriber | None = None
    ) -> None:
        """Queue a frame for every subscriber of a topic except `excluding`."""
        times = 1
        if self._faults is not None:
            if self._faults.take("drop_messages"):
                return
            if self._faults.take("delay_messages"):
                asyncio.get_running_loop().call_later(
                    self._faults.switches.delay_seconds,
                    self._deliver,
                    name,
                    private,
                    text,
                    excluding,
                )
                return
            times += self._faults.take("duplicate_messages")
        for _ in range(times):
            self._deliver(name, private, text, excluding)

    def _deliver(self, name: str, private: bool, text: str, excluding: Subscriber | None) -> None:
        for subscriber in tuple(self._topics.get((name, private), ())):
            if subscriber is not excluding:
                subscriber.deliver(text)
