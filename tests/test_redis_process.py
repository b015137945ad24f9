"""The harness: a Redis that goes away comes back as the test says, with its data or without."""

from __future__ import annotations

import os

import pytest

from tests.redis_process import needs_redis, redis_process

pytestmark = needs_redis


def test_redis_killed_and_started_again_has_all_that_it_answered() -> None:
    with redis_process() as redis:
        redis.call("SET", "name", "value")
        redis.restart()
        assert redis.call("GET", "name") == b"value"
        redis.stop()
        redis.start()
        assert redis.call("GET", "name") == b"value"


def test_redis_restarted_without_data_is_empty_at_the_same_address() -> None:
    with redis_process(tcp=True) as redis:
        url = redis.url
        redis.call("SET", "name", "value")
        redis.restart(with_data=False)
        assert redis.call("DBSIZE") == 0
        assert redis.url == url


def test_redis_with_a_password_says_so_and_leaves_nothing_behind() -> None:
    with redis_process(password="secret") as redis:
        assert redis.call("PING")
        assert ":secret@" in redis.url
        assert redis.client_count() == 0
        pid, folder = redis.pid, redis.folder
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
