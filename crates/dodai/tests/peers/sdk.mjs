// Dapr's own JavaScript SDK against the sidecar beside this program, which is an app itself: once over HTTP, its default,
// and once over gRPC. Says `following` once it hears of changes of the configuration, and `ok` when everything was as
// the SDK's users expect it.

import { deepStrictEqual as same, match, rejects } from "node:assert";
import { setTimeout as wait } from "node:timers/promises";
import { CommunicationProtocolEnum, DaprClient, DaprPubSubStatusEnum, DaprServer, HttpMethod, StateConcurrencyEnum } from "@dapr/dapr";

const heard = { orders: [], routed: [], bulk: [], ticks: 0 };

async function until(what, holds) {
  for (const start = Date.now(); !(await holds()); await wait(20)) {
    if (Date.now() - start > 60_000) throw new Error(`not in time: ${what}`);
  }
}

async function state(dapr) {
  const get = (key) => dapr.state.get("statestore", key);
  const firstWrite = { concurrency: StateConcurrencyEnum.CONCURRENCY_FIRST_WRITE };
  same(await dapr.state.save("statestore", [{ key: "a", value: { n: 1 } }, { key: "b", value: "text" }]), {});
  same([await get("a"), await get("b"), await get("none")], [{ n: 1 }, "text", ""]);
  const bulk = await dapr.state.getBulk("statestore", ["a", "b"]);
  same(bulk.map(({ key, data }) => [key, data]), [["a", { n: 1 }], ["b", "text"]]);
  const stale = { key: "a", value: 2, etag: "999", options: firstWrite };
  // The client for HTTP tells of what failed, the one for gRPC throws it.
  const failed = await dapr.state.save("statestore", [stale]).then(({ error }) => error, (thrown) => thrown);
  match(String(failed), /etag mismatch/);
  same(await get("a"), { n: 1 });
  same(await dapr.state.save("statestore", [{ ...stale, etag: bulk[0].etag }]), {});
  await dapr.state.transaction("statestore", [
    { operation: "upsert", request: { key: "a", value: "three" } },
    { operation: "delete", request: { key: "b" } },
  ]);
  same([await get("a"), await get("b")], ["three", ""]);
  same(await dapr.state.delete("statestore", "a"), {});
  same(await get("a"), "");
  await dapr.state.save("statestore", [{ key: "short", value: 1, metadata: { ttlInSeconds: "1" } }]);
  same(await get("short"), 1);
  await until("it has expired", async () => (await get("short")) === "");
  await rejects(dapr.state.get("nowhere", "k"), /nowhere/);
}

async function messages(dapr) {
  heard.orders.length = heard.routed.length = 0;
  await until("an event came", async () => {
    // Until the sidecar has asked for subscriptions, nobody hears.
    same(await dapr.pubsub.publish("pubsub", "orders", { n: 1 }), {});
    return heard.orders.length > 0;
  });
  same(heard.orders[0], { n: 1 });
  same(await dapr.pubsub.publishBulk("pubsub", "routed", ["one", "two"]), { failedMessages: [] });
  await until("both came", () => heard.routed.length === 2);
  same(heard.routed.toSorted(), ["one", "two"]);
  heard.bulk.length = 0;
  same(await dapr.pubsub.publishBulk("pubsub", "bulk", [{ n: 1 }, "two"]), { failedMessages: [] });
  // The first time that each comes it is to come again.
  await until("both came twice", () => heard.bulk.length === 4);
  same(heard.bulk.toSorted(), ['"two"', '"two"', '{"n":1}', '{"n":1}']);
}

async function rest(dapr) {
  same(await dapr.secret.get("vault", "password"), { password: "hunter2" });
  same(await dapr.secret.getBulk("vault"), { password: { password: "hunter2" } });
  same(await dapr.lock.lock("locks", "door", "me", 60), { success: true });
  same(await dapr.lock.lock("locks", "door", "you", 60), { success: false });
  same(await dapr.lock.unlock("locks", "door", "you"), { status: 2 });
  same(await dapr.lock.unlock("locks", "door", "me"), { status: 0 });
  same(await dapr.lock.unlock("locks", "door", "me"), { status: 1 });
  const fileName = "node.txt";
  // No word that could be base64, which the binding would decode.
  await dapr.binding.send("files", "create", "from node", { fileName });
  const file = await dapr.binding.send("files", "get", "", { fileName });
  same(typeof file === "string" ? file : Buffer.from(file.data).toString(), "from node");
  await rejects(dapr.binding.send("files", "paint", "", {}), /paint/);
  same(await dapr.metadata.set("team", "blue"), true);
  const told = await dapr.metadata.get();
  same(told.id, "peer");
  const components = told.components ?? told.registeredComponents;
  same(components.map(({ name }) => name), ["config", "files", "locks", "pubsub", "statestore", "tick", "vault"]);
  same(await dapr.health.isHealthy(), true);
}

async function invocation(dapr) {
  same(await dapr.invoker.invoke("peer", "echo", HttpMethod.POST, { n: 1 }), { body: { n: 1 } });
  same(await dapr.invoker.invoke("orders", "orders", HttpMethod.POST, "one"), "got one");
  await rejects(dapr.invoker.invoke("orders", "nothing", HttpMethod.GET));
}

async function configuration(dapr) {
  const news = [];
  const stream = await dapr.configuration.subscribeWithKeys("config", ["colour"], async ({ items }) => {
    if (items.colour) news.push(items.colour.value);
  });
  console.log("following");
  await until("news", () => news.length > 0);
  same(news[0], "red");
  const { items } = await dapr.configuration.get("config", ["colour"]);
  same(items.colour.value, "red");
  await stream.stop();
}

const server = new DaprServer({ serverHost: "127.0.0.1", serverPort: process.env.APP_PORT });
await server.pubsub.subscribe("pubsub", "orders", async (data) => void heard.orders.push(data));
await server.pubsub.subscribeWithOptions("pubsub", "routed", {
  route: "/routed",
  callback: async (data) => void heard.routed.push(data),
});
const bulk = async (data) => {
  heard.bulk.push(JSON.stringify(data));
  const times = heard.bulk.filter((one) => one === heard.bulk.at(-1)).length;
  return times === 1 ? DaprPubSubStatusEnum.RETRY : DaprPubSubStatusEnum.SUCCESS;
};
await server.pubsub.subscribeBulk("pubsub", "bulk", bulk, { maxMessagesCount: 10, maxAwaitDurationMs: 50 });
await server.binding.receive("tick", async () => void heard.ticks++);
await server.invoker.listen("echo", async ({ body }) => ({ body: JSON.parse(body) }), { method: HttpMethod.POST });
await server.start();

const http = new DaprClient();
const grpc = new DaprClient({ communicationProtocol: CommunicationProtocolEnum.GRPC });
for (const dapr of [http, grpc]) {
  await state(dapr);
  await messages(dapr);
  await rest(dapr);
}
await invocation(http);
await until("the clock told of its times", () => heard.ticks > 0);
await configuration(grpc);
await http.sidecar.shutdown();
await grpc.stop();
await server.stop();
console.log("ok");
process.exit(0);
