"""Dapr's own Python SDK against two sidecars: one beside an app that speaks HTTP, one beside this program, an app of the
SDK's own that speaks gRPC and asks for a token. Says `ok` when everything was as the SDK's users expect it."""

import inspect
import os
import queue
import sqlite3
import threading

import grpc
from dapr.clients import BulkPublishEntry, DaprClient, DropFailurePolicy, Job
from dapr.clients.exceptions import DaprGrpcError
from dapr.clients.grpc._request import TransactionalStateOperation, TransactionOperationType
from dapr.clients.grpc._response import UnlockResponseStatus
from dapr.clients.grpc._state import Concurrency, Consistency, StateItem, StateOptions
from dapr.conf import settings
from dapr.ext.grpc import App, BindingRequest, InvokeMethodRequest, InvokeMethodResponse, JobEvent, SubscriptionMessage
from google.protobuf.any_pb2 import Any

PATIENCE = 60
EVENTS = queue.Queue()
BULK = queue.Queue()
JOBS = queue.Queue()
TICKS = queue.Queue()


def serve(port):
    """The app that speaks gRPC: the SDK's own server, and a service of its own that carries bytes."""
    app = App()
    app.register_health_check(lambda: None)

    @app.subscribe("pubsub", "greetings")
    def greetings(event: SubscriptionMessage):
        EVENTS.put(event)

    @app.subscribe("pubsub", "many")
    def many(event: SubscriptionMessage):
        # How the server was called is not told, but where this is called from.
        in_bulk = any(frame.function == "OnBulkTopicEvent" for frame in inspect.stack())
        if event.topic() == "bulk":
            BULK.put((event.data(), in_bulk))
        else:
            EVENTS.put(event)

    @app.binding("tick")
    def tick(request: BindingRequest):
        TICKS.put(request)

    @app.job_event("hello")
    def job(event: JobEvent):
        JOBS.put(event)

    @app.method("shout")
    def shout(request: InvokeMethodRequest):
        return InvokeMethodResponse(request.text().upper(), "text/plain")

    def hello(request, context):
        context.set_trailing_metadata((("x-after", "yes"),))
        if request == b"nobody":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such person")
        caller = dict(context.invocation_metadata()).get("dapr-caller-app-id", "")
        return b"hello " + request + b" from " + caller.encode()

    def echo(requests, context):
        for request in requests:
            yield request.upper()

    handlers = {
        "Hello": grpc.unary_unary_rpc_method_handler(hello),
        "Echo": grpc.stream_stream_rpc_method_handler(echo),
    }
    greeter = grpc.method_handlers_generic_handler("greet.Greeter", handlers)
    app.add_external_service(lambda more, server: server.add_generic_rpc_handlers(more), (greeter,))
    threading.Thread(target=app.run, args=(port, "127.0.0.1"), daemon=True).start()
    return app


def refused(code, call):
    try:
        call()
    except (DaprGrpcError, grpc.RpcError) as error:
        assert error.code() == code, (error.code(), error)
        return error
    raise AssertionError(f"nothing was refused; {code} was expected")


def state(dapr):
    dapr.save_state("statestore", "k", b"\x00bytes", state_metadata={"ttlInSeconds": "600"})
    got = dapr.get_state("statestore", "k")
    assert got.data == b"\x00bytes" and got.etag, got
    first = StateOptions(concurrency=Concurrency.first_write, consistency=Consistency.strong)
    refused(grpc.StatusCode.ABORTED, lambda: dapr.save_state("statestore", "k", "x", etag="999", options=first))
    dapr.save_state("statestore", "k", "text", etag=got.etag, options=first)
    dapr.save_bulk_state("statestore", [StateItem(key="a", value="1"), StateItem(key="b", value="2")])
    items = {item.key: item.data for item in dapr.get_bulk_state("statestore", ["a", "b", "none"]).items}
    assert items == {"a": b"1", "b": b"2", "none": b""}, items
    step = TransactionalStateOperation
    dapr.execute_state_transaction(
        "statestore",
        [
            step(key="a", data="3", operation_type=TransactionOperationType.upsert),
            step(key="b", data="", operation_type=TransactionOperationType.delete),
        ],
    )
    assert (dapr.get_state("statestore", "a").data, dapr.get_state("statestore", "b").data) == (b"3", b"")
    dapr.delete_state("statestore", "a")
    assert dapr.get_state("statestore", "a").data == b""
    missing = refused(grpc.StatusCode.INVALID_ARGUMENT, lambda: dapr.get_state("nowhere", "k"))
    details = missing.get_status_details() if hasattr(missing, "get_status_details") else missing._details
    assert details.error_info["reason"] == "DAPR_STATE_NOT_FOUND", details.error_info


def messages(dapr, greeter):
    stream = dapr.subscribe(pubsub_name="pubsub", topic="orders")
    dapr.publish_event("pubsub", "orders", '{"n": 1}', data_content_type="application/json")
    event = stream.next_message()
    assert event.data() == {"n": 1} and event.topic() == "orders", event.data()
    stream.respond_retry(event)
    again = stream.next_message()
    assert again.id() == event.id()
    stream.respond_success(again)
    stream.close()
    greeter.publish_event("pubsub", "greetings", "hello", data_content_type="text/plain")
    event = EVENTS.get(timeout=PATIENCE)
    assert (event.data(), event.topic()) == ("hello", "greetings"), event
    # The sidecar proves itself to its app.
    assert event.metadata()["dapr-api-token"] == os.environ["APP_API_TOKEN"], event.metadata()
    second = BulkPublishEntry(event='{"n": 2}', content_type="application/json")
    told = greeter.publish_events("pubsub", "many", ["one", second], data_content_type="text/plain")
    assert told.failed_entries == [], told.failed_entries
    many = [EVENTS.get(timeout=PATIENCE) for _ in range(2)]
    assert all(event.topic() == "many" for event in many), many
    assert sorted(str(event.data()) for event in many) == ["one", "{'n': 2}"], many
    # A document brings these to the same function in bulk.
    greeter.publish_events("pubsub", "bulk", ["one", "two"], data_content_type="text/plain")
    bulk = sorted(BULK.get(timeout=PATIENCE) for _ in range(2))
    assert bulk == [("one", True), ("two", True)], bulk


def secrets(dapr):
    assert dapr.get_secret("vault", "password").secret == {"password": "hunter2"}
    assert dapr.get_bulk_secret("vault").secrets == {"password": {"password": "hunter2"}}
    refused(grpc.StatusCode.INTERNAL, lambda: dapr.get_secret("vault", "nothing"))


def configuration(dapr):
    news = queue.Queue()
    ready = dapr.subscribe_configuration("config", ["colour"], lambda id, told: news.put((id, told.items)))
    store = sqlite3.connect("config.db", timeout=PATIENCE)
    with store:
        (version,) = store.execute("UPDATE configuration_version SET last = last + 1 RETURNING last").fetchone()
        row = ("colour", "red", version, "{}", False, 0)
        store.execute("INSERT INTO configuration VALUES (?, ?, ?, ?, ?, ?)", row)
    store.close()
    id, items = news.get(timeout=PATIENCE)
    assert (id, items["colour"].value) == (ready, "red"), items
    assert dapr.get_configuration("config", ["colour"]).items["colour"].value == "red"
    assert dapr.unsubscribe_configuration("config", ready)


def locks(dapr):
    with dapr.try_lock("locks", "door", "me", 60) as lock:
        assert lock.success
        assert not dapr.try_lock("locks", "door", "you", 60).success
        assert dapr.unlock("locks", "door", "you").status == UnlockResponseStatus.lock_belongs_to_others
    assert dapr.unlock("locks", "door", "me").status == UnlockResponseStatus.lock_does_not_exist


def bindings(dapr):
    dapr.invoke_binding("files", "create", b"hello", {"fileName": "greeting"})
    assert dapr.invoke_binding("files", "get", b"", {"fileName": "greeting"}).data == b"hello"
    refused(grpc.StatusCode.INTERNAL, lambda: dapr.invoke_binding("files", "paint", b""))


def jobs(greeter):
    data = Any(value=b'{"n": 1}')
    policy = DropFailurePolicy()
    job = Job(name="hello", schedule="@every 1h", due_time="0s", repeats=2, data=data, failure_policy=policy)
    greeter.schedule_job(job)
    event = JOBS.get(timeout=PATIENCE)
    assert (event.name, event.get_data_as_string()) == ("hello", '{"n": 1}'), event
    got = greeter.get_job("hello")
    assert (got.schedule, got.repeats, got.data.value) == ("@every 1h", 2, b'{"n": 1}'), got
    assert isinstance(got.failure_policy, DropFailurePolicy), got
    refused(grpc.StatusCode.ALREADY_EXISTS, lambda: greeter.schedule_job(Job(name="hello", schedule="@daily")))
    greeter.delete_job("hello")
    refused(grpc.StatusCode.INTERNAL, lambda: greeter.get_job("hello"))


def ticks():
    tick = TICKS.get(timeout=PATIENCE)
    assert (tick.data, "timeZone" in tick.binding_metadata) == (b"", True), tick.binding_metadata


def tokens():
    """The greeter's sidecar asks for a token."""
    with grpc.insecure_channel(os.environ["GREETER_API"]) as channel:
        metadata = channel.unary_unary("/dapr.proto.runtime.v1.Dapr/GetMetadata")
        refused(grpc.StatusCode.UNAUTHENTICATED, lambda: metadata(b"", timeout=PATIENCE))


def methods():
    """Those of the SDK's own server are called by the client that speaks gRPC for this, too."""
    settings.DAPR_API_METHOD_INVOCATION_PROTOCOL = "grpc"
    with DaprClient(os.environ["GREETER_API"]) as greeter:
        shouted = greeter.invoke_method("greeter", "shout", "loud", content_type="text/plain", http_verb="POST")
        assert (shouted.text(), shouted.content_type) == ("LOUD", "text/plain"), shouted.data


def metadata(dapr):
    dapr.set_metadata("team", "blue")
    told = dapr.get_metadata()
    assert told.application_id == "orders" and told.extended_metadata["team"] == "blue", told
    names = sorted(component.name for component in told.registered_components)
    assert names == ["config", "files", "locks", "pubsub", "statestore", "vault"], names


def invocation(dapr, channel):
    told = dapr.invoke_method("orders", "orders", b"one", content_type="text/plain", http_verb="POST")
    assert told.data == b"got one", told.data
    # Over HTTP, as this client does by itself, and the app speaks gRPC.
    shouted = dapr.invoke_method("greeter", "shout", "you", content_type="text/plain", http_verb="POST")
    assert (shouted.data, shouted.content_type) == (b"YOU", "text/plain"), shouted.data
    called = (("dapr-app-id", "greeter"),)
    hello = channel.unary_unary("/greet.Greeter/Hello")
    answer, call = hello.with_call(b"you", metadata=called, timeout=PATIENCE)
    assert answer == b"hello you from orders", answer
    assert dict(call.trailing_metadata())["x-after"] == "yes"
    refused(grpc.StatusCode.NOT_FOUND, lambda: hello(b"nobody", metadata=called, timeout=PATIENCE))
    echo = channel.stream_stream("/greet.Greeter/Echo")
    said = queue.Queue()
    answers = echo(iter(said.get, None), metadata=called, timeout=PATIENCE)
    for word in [b"one", b"two"]:
        said.put(word)
        assert next(answers) == word.upper()
    said.put(None)
    assert list(answers) == []


def main():
    app = serve(int(os.environ["GREETER_PORT"]))
    with DaprClient() as dapr, DaprClient(os.environ["GREETER_API"]) as greeter:
        state(dapr)
        messages(dapr, greeter)
        secrets(dapr)
        configuration(dapr)
        locks(dapr)
        bindings(dapr)
        jobs(greeter)
        ticks()
        tokens()
        metadata(dapr)
        with grpc.insecure_channel(os.environ["ORDERS_API"]) as channel:
            invocation(dapr, channel)
        methods()
        greeter.shutdown()
        dapr.shutdown()
    app.stop()
    print("ok")


main()
