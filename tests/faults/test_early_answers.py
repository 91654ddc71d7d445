"""An upstream that answers before it has read the request, or closes a connection just as it is used again."""

from __future__ import annotations

import pytest
import pytest_twisted

from agm.testing import GatewayFactory
from tests.faults.misbehaving import Clients, Shape, configuration
from tests.faults.seen import outcome
from tests.helpers.support import JSON_HEAD, ScriptedUpstream, Wire, eventually, post

#: More than the sockets between a gateway and an upstream hold.
LARGE = b'{"contents": [{"parts": [{"text": "%b"}], "role": "user"}]}' % (b"x" * 24_000_000)


async def asked_large(client: Wire, upstream: ScriptedUpstream, shape: Shape) -> Wire:
    """The upstream's end of a large request, of which it has read the head and will read no more."""
    client.send(post(shape.target, LARGE))
    await eventually(lambda: upstream.connections, "a connection")
    up = upstream.connections[0]
    await up.until(b"\r\n\r\n")
    up.transport.pauseProducing()
    return up


@pytest_twisted.ensureDeferred
async def test_an_answer_before_the_request_was_read_is_passed_and_its_connection_not_used_again(
    gateway: GatewayFactory, upstream: ScriptedUpstream, clients: Clients, shape: Shape
) -> None:
    running = await gateway(configuration(shape.kind, upstream.url))
    client = await clients(running)
    up = await asked_large(client, upstream, shape)
    up.send(shape.with_length)
    assert await outcome(client, shape) == "served"
    client.received = b""
    client.send(post(shape.target))
    second = await upstream.connection(1)
    second.send(shape.with_length)
    assert await outcome(client, shape) == "served"
    assert len(upstream.connections) == 2
    up.transport.resumeProducing()
    await up.closed()


@pytest_twisted.ensureDeferred
async def test_an_error_before_the_request_was_read_goes_to_the_client(
    gateway: GatewayFactory, upstream: ScriptedUpstream, clients: Clients, shape: Shape
) -> None:
    running = await gateway(configuration(shape.kind, upstream.url))
    client = await clients(running)
    up = await asked_large(client, upstream, shape)
    up.send(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
    assert await outcome(client, shape) == "413"
    up.transport.resumeProducing()
    await up.closed()
    assert len(upstream.connections) == 1


@pytest_twisted.ensureDeferred
async def test_an_upstream_that_leaves_in_the_middle_of_the_request_is_an_error_and_nothing_is_sent_twice(
    gateway: GatewayFactory, upstream: ScriptedUpstream, clients: Clients, shape: Shape
) -> None:
    running = await gateway(configuration(shape.kind, upstream.url, upstream.url))
    client = await clients(running)
    up = await asked_large(client, upstream, shape)
    up.transport.abortConnection()
    assert await outcome(client, shape) == "502"
    assert len(upstream.connections) == 1


@pytest.mark.parametrize("how", ["in good order", "with a reset"])
@pytest_twisted.ensureDeferred
async def test_a_connection_that_closes_as_it_is_used_again_costs_no_request_and_doubles_none(
    gateway: GatewayFactory, upstream: ScriptedUpstream, clients: Clients, shape: Shape, how: str
) -> None:
    running = await gateway(configuration(shape.kind, upstream.url))
    client = await clients(running)
    client.send(post(shape.target))
    for number in range(5):
        up = await upstream.connection(number)
        up.send(shape.with_length)
        assert await outcome(client, shape) == "served"
        client.received = up.received = b""
        client.send(post(shape.target))
        await up.until(b"POST ")  # it has been sent on the connection that was kept, ...
        assert len(upstream.connections) == number + 1
        if how == "in good order":
            up.transport.loseConnection()  # ... which closes without a byte of an answer
        else:
            up.transport.abortConnection()
    await upstream.connection(5)
    assert not client.received
    assert [wire.received.count(b"POST ") for wire in upstream.connections] == [1] * 6


@pytest_twisted.ensureDeferred
async def test_a_kept_connection_that_has_begun_its_answer_is_not_tried_again(
    gateway: GatewayFactory, upstream: ScriptedUpstream, clients: Clients, shape: Shape
) -> None:
    running = await gateway(configuration(shape.kind, upstream.url))
    client = await clients(running)
    client.send(post(shape.target))
    up = await upstream.connection()
    up.send(shape.with_length)
    assert await outcome(client, shape) == "served"
    client.received = up.received = b""
    client.send(post(shape.target))
    await up.until(b"POST ")
    up.send(JSON_HEAD[:30])
    up.transport.loseConnection()
    assert await outcome(client, shape) == "502"
    assert len(upstream.connections) == 1
